/* As many floats at a time as a register holds, or two do: GCC and Clang know what to make of it on any processor. */
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX512BW__) && !defined(PORTABLE)
#include <immintrin.h>
#define LANES 16
#else
#if defined(__F16C__) && !defined(PORTABLE)
#include <immintrin.h>
#endif
#define LANES 8
#endif

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

static inline vec greater(vec a, vec b) { return pick(a > b, a, b); }

static inline vec half(const uint16_t *from) {
#if LANES == 16
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif defined(__F16C__) && !defined(PORTABLE)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
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
#if LANES == 16 /* each to the upper half of its lane, in one instruction */
    const ivec to = (ivec){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} << 16;
    __m512i raw = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)from));
    return (vec)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, (__m512i)to, raw);
#else
    hvec raw;
    memcpy(&raw, from, sizeof raw);
    return (vec)(__builtin_convertvector(raw, ivec) << 16);
#endif
}

#if LANES == 16
#define PAIRS(a, b, first) \
    PICK(a, b, first, 2 + first, 4 + first, 6 + first, 8 + first, 10 + first, 12 + first, 14 + first, \
        16 + first, 18 + first, 20 + first, 22 + first, 24 + first, 26 + first, 28 + first, 30 + first)
#else
#define PAIRS(a, b, first) \
    PICK(a, b, first, 2 + first, 4 + first, 6 + first, 8 + first, 10 + first, 12 + first, 14 + first)
#endif
#if defined(__clang__) || __GNUC__ >= 12
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

/* Sums of neighbours of `a`, then those of `b`. */
static inline vec fold(vec a, vec b) { return PAIRS(a, b, 0) + PAIRS(a, b, 1); }

/* Add up each of as many vectors as there are lanes, each to a lane of its own. */
static inline vec fold_all(vec *sums) {
#pragma GCC unroll 4
    for (int n = LANES / 2; n; n /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) sums[i] = fold(sums[2 * i], sums[2 * i + 1]);
    return sums[0];
}

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
    p *= (vec)(((ivec)whole << 23) + 0x3f800000); /* a product: what is no number stays none */
    return (vec)((ivec)p & ~(x < -87.0f));
}
