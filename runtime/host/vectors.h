/* Sixteen floats at a time, whatever the processor has: GCC and Clang split them into registers. */
#include <stdint.h>
#include <string.h>
#if (defined(__AVX512F__) || defined(__F16C__)) && !defined(PORTABLE)
#include <immintrin.h>
#endif

#define LANES 16

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));

static inline vec load(const float *from) {
    vec found;
    memcpy(&found, from, sizeof found);
    return found;
}

static inline void store(float *to, vec value) { memcpy(to, &value, sizeof value); }

static inline vec pick(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }

static inline vec half(const uint16_t *from) {
#if defined(__AVX512F__) && !defined(PORTABLE)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif defined(__F16C__) && !defined(PORTABLE)
    __m256 parts[2] = {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)),
                       _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 8)))};
    return load((const float *)parts);
#else
    hvec raw;
    memcpy(&raw, from, sizeof raw);
    ivec bits = __builtin_convertvector(raw, ivec);
    ivec magnitude = (bits & 0x7fff) << 13;
    ivec special = (magnitude >= 0x0f800000) & 0x7f800000; /* infinities and NaN keep their exponent */
    vec moved = (vec)magnitude * 0x1p112f;
    return (vec)((ivec)moved | special | ((bits & 0x8000) << 16));
#endif
}

static inline vec brain(const uint16_t *from) {
    hvec raw;
    memcpy(&raw, from, sizeof raw);
    return (vec)(__builtin_convertvector(raw, ivec) << 16);
}

#if defined(__clang__) || __GNUC__ >= 12
#define PAIRS(a, b, first) \
    __builtin_shufflevector(a, b, first, 2 + first, 4 + first, 6 + first, 8 + first, 10 + first, 12 + first, \
        14 + first, 16 + first, 18 + first, 20 + first, 22 + first, 24 + first, 26 + first, 28 + first, 30 + first)
#else
#define PAIRS(a, b, first) \
    __builtin_shuffle(a, b, (ivec){0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30} + first)
#endif

/* Sums of neighbours of `a`, then those of `b`: four rounds of it add up 16 vectors, each to a lane of its own. */
static inline vec fold(vec a, vec b) { return PAIRS(a, b, 0) + PAIRS(a, b, 1); }

/* e to the power of x <= 0: 2^n from the exponent's bits, the rest by a polynomial; 2 units in the last place. */
static inline vec power(vec x) {
    const vec magic = (vec){} + 12582912.0f;
    vec whole = x * 1.44269504f + magic;
    vec n = whole - magic;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vec scaled = (vec)((ivec)p + ((ivec)whole << 23));
    ivec lost = x < -87.0f, unknown = x != x;
    return pick(unknown, x, pick(lost, (vec){}, scaled));
}

/* The greatest lane; one that is no number wins. */
static inline float greatest(vec x) {
    for (int i = 0; i < 4; i++) {
        vec a = PAIRS(x, x, 0), b = PAIRS(x, x, 1);
        x = pick((a > b) | (a != a), a, b);
    }
    return x[0];
}

/* Whether a lane is greater than `best`, or is no number. */
static inline int above(vec x, float best) {
#if defined(__AVX512F__) && !defined(PORTABLE)
    return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(best), _CMP_NLE_UQ) != 0;
#else
    return !(greatest(x) <= best);
#endif
}

static inline float total(vec x) {
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

