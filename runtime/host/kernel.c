/* Paged decode attention on a host's cores (NEO, section 4; flash decoding, with an online softmax per head).
 *
 * A row is one query of one sequence. Its tokens are cut into segments, each a unit of work for whichever thread is
 * free; the segments of a row are then merged, in order, by their log-sum-exp. How a row is cut depends on its length
 * alone, so that no result depends on the number of threads or on which other rows there are.
 *
 * Keys and values are read once per KV head and used for all of its queries; sums are in float32.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "threads.h"
#include "vectors.h"

#define TILE LANES /* tokens at a time */
#define NOTHING (-1e30f)
#define LARGEST_GROUP 64 /* queries of a KV head */

enum { FLOAT32, FLOAT16, BFLOAT16 };

typedef struct {
    const float *queries;     /* [rows, heads, dim] */
    float *out;               /* [rows, heads, dim] */
    const char *keys;         /* a layer's keys of block 0: [tokens, kv_heads, dim] */
    const char *values;       /* the same layer's values of block 0 */
    const int32_t *blocks;    /* all rows' block numbers, one row after the other */
    const int64_t *segments;  /* [segments, 4]: row, where in `blocks` it begins, tokens, 1 if it is the row alone */
    const int64_t *firsts;    /* [rows + 1]: the first segment of each row */
    float *partial;           /* [segments, heads, dim] */
    float *stats;             /* [segments, heads, 2]: greatest score, sum of weights */
    int32_t *left;            /* [rows]: segments to come */
    int64_t block_bytes;
    int64_t rows, count;      /* of segments */
    int32_t heads, kv_heads, dim, size, kind, next;
    float scale;
} Job;

static inline float element(const char *row, int at, int kind) {
    uint16_t raw[LANES] = {0};
    if (kind == FLOAT32) return ((const float *)row)[at];
    raw[0] = ((const uint16_t *)row)[at];
    return kind == FLOAT16 ? half(raw)[0] : brain(raw)[0];
}

/* Bring `count` rows of `dim` elements, `stride` bytes apart, to float32 rows of `wide` elements; the rest is 0. */
static inline void widen(float *tile, const char *from, int64_t stride, int count, int dim, int wide, int kind) {
    for (int t = 0; t < count; t++, from += stride, tile += wide) {
        int d = 0;
        for (; d + LANES <= dim; d += LANES) {
            if (kind == FLOAT32) store(tile + d, load((const float *)from + d));
            else if (kind == FLOAT16) store(tile + d, half((const uint16_t *)from + d));
            else store(tile + d, brain((const uint16_t *)from + d));
        }
        for (; d < wide; d++) tile[d] = d < dim ? element(from, d, kind) : 0.0f;
    }
    for (int i = 0; i < (TILE - count) * wide; i++) tile[i] = 0.0f;
}

/* Scores of one query for a tile: 16 sums side by side in registers, then each in its lane. */
static inline vec dots(const float *query, const float *tile, int wide) {
    vec sums[TILE] = {0};
    for (int d = 0; d < wide; d += LANES) {
        vec part = load(query + d);
#pragma GCC unroll 16
        for (int t = 0; t < TILE; t++) sums[t] += part * load(tile + t * wide + d);
    }
#pragma GCC unroll 4
    for (int n = TILE / 2; n; n /= 2)
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) sums[t] = fold(sums[2 * t], sums[2 * t + 1]);
    return sums[0];
}

typedef struct {
    vec weight;
    float best;
} State; /* 128 bytes, with what alignment adds */

/* Let one query see a tile: weights from its scores, what was summed before scaled down where a score is greater. */
static inline vec weigh(State *state, float *sums, vec scores, int wide) {
    if (above(scores, state->best)) {
        float best = greatest(scores), shrink = expf(state->best - best);
        state->best = best;
        state->weight *= shrink;
        for (int d = 0; d < wide; d += LANES) store(sums + d, load(sums + d) * shrink);
    }
    vec weights = power(scores - state->best);
    state->weight += weights;
    return weights;
}

static inline void add(float *sums, const float *tile, vec weights, int wide) {
    vec each[TILE];
#pragma GCC unroll 16
    for (int t = 0; t < TILE; t++) each[t] = (vec){} + weights[t];
    for (int d = 0; d < wide; d += LANES) {
        vec sum = load(sums + d), other = {};
#pragma GCC unroll 8
        for (int t = 0; t < TILE; t += 2) {
            sum += each[t] * load(tile + t * wide + d);
            other += each[t + 1] * load(tile + (t + 1) * wide + d);
        }
        store(sums + d, sum + other);
    }
}

/* Ask for part `part` of `parts` of a tile's rows. All at once would fill the buffers that loads need too. */
static inline void fetch(const char *from, int64_t stride, int bytes, int part, int parts) {
    int last = TILE * (part + 1) / parts;
    for (int t = TILE * part / parts; t < last; t++)
        for (int at = 0; at < bytes; at += 64) __builtin_prefetch(from + t * stride + at, 0, 2);
}

typedef struct {
    float *queries, *sums, *tile;
    State *states;
} Scratch;

/* Where keys and values of a KV head's tile are, and those of the next tile. */
typedef struct {
    const char *keys, *values;
    int64_t ahead, stride;
    int tokens;
} Place;

/* One tile of one KV head. */
static inline __attribute__((always_inline)) void see(
    const Scratch *s, Place at, int head, int group, int dim, int wide, int kind) {
    const ivec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    int bytes = dim * (kind == FLOAT32 ? 4 : 2), first = head * group;
    vec weights[LARGEST_GROUP];
    widen(s->tile, at.keys, at.stride, at.tokens, dim, wide, kind);
    for (int g = 0; g < group; g++) {
        fetch(at.keys + at.ahead, at.stride, bytes, g, group);
        vec scores = dots(s->queries + (first + g) * wide, s->tile, wide);
        weights[g] = pick(lane < at.tokens, scores, (vec){} + NOTHING);
    }
    for (int g = 0; g < group; g++)
        weights[g] = weigh(s->states + first + g, s->sums + (first + g) * wide, weights[g], wide);
    widen(s->tile, at.values, at.stride, at.tokens, dim, wide, kind);
    for (int g = 0; g < group; g++) {
        fetch(at.values + at.ahead, at.stride, bytes, g, group);
        add(s->sums + (first + g) * wide, s->tile, weights[g], wide);
    }
}

/* Tokens of a segment, tile by tile. `then` is the place of what comes after it. */
static inline __attribute__((always_inline)) void walk(
    const Job *job, const Scratch *s, const int32_t *blocks, int64_t tokens, int64_t then, int dim, int wide, int kind) {
    int64_t row = (int64_t)dim * (kind == FLOAT32 ? 4 : 2), stride = row * job->kv_heads;
    int group = job->heads / job->kv_heads;
    for (int64_t at = 0; at < tokens;) {
        int inside = at % job->size, count = job->size - inside < TILE ? job->size - inside : TILE;
        if (tokens - at < count) count = tokens - at;
        int64_t here = blocks[at / job->size] * job->block_bytes + inside * stride, after = at + count, next = then;
        if (after < tokens) next = blocks[after / job->size] * job->block_bytes + after % job->size * stride;
        for (int h = 0; h < job->kv_heads; h++) {
            int64_t place = here + h * row;
            Place found = {job->keys + place, job->values + place, next - here, stride, count};
            see(s, found, h, group, dim, wide, kind);
        }
        at = after;
    }
}

static void attend(const Job *job, const Scratch *s, const int32_t *blocks, int64_t tokens, int64_t then, int wide) {
#define CASE(k) \
    if (job->kind == k) { \
        if (job->dim == 128) walk(job, s, blocks, tokens, then, 128, 128, k); \
        else if (job->dim == 64) walk(job, s, blocks, tokens, then, 64, 64, k); \
        else walk(job, s, blocks, tokens, then, job->dim, wide, k); \
    }
    CASE(FLOAT32) CASE(FLOAT16) CASE(BFLOAT16)
}

/* Queries times the scale, as wide as tiles are; nothing seen so far. */
static void begin(const Job *job, const Scratch *s, const float *queries, int wide) {
    if (wide != job->dim) memset(s->queries, 0, sizeof(float) * job->heads * wide);
    memset(s->sums, 0, sizeof(float) * job->heads * wide);
    for (int h = 0; h < job->heads; h++) {
        for (int d = 0; d < job->dim; d++) s->queries[h * wide + d] = queries[h * job->dim + d] * job->scale;
        s->states[h] = (State){(vec){}, NOTHING};
    }
}

/* A row in one segment is done; parts of a row keep their sums, greatest scores and weights until it is merged. */
static void finish(const Job *job, const Scratch *s, int64_t row, int64_t segment, int alone, int wide) {
    float *to = alone ? job->out + row * job->heads * job->dim : job->partial + segment * job->heads * job->dim;
    for (int h = 0; h < job->heads; h++) {
        float weight = total(s->states[h].weight), share = alone ? 1.0f / weight : 1.0f;
        for (int d = 0; d < job->dim; d++) to[h * job->dim + d] = s->sums[h * wide + d] * share;
        if (alone) continue;
        job->stats[(segment * job->heads + h) * 2] = s->states[h].best;
        job->stats[(segment * job->heads + h) * 2 + 1] = weight;
    }
}

static void merge(const Job *job, int64_t row) {
    int64_t first = job->firsts[row], last = job->firsts[row + 1];
    for (int h = 0; h < job->heads; h++) {
        float best = NOTHING, weight = 0.0f, *to = job->out + (row * job->heads + h) * job->dim;
        for (int64_t s = first; s < last; s++) best = fmaxf(best, job->stats[(s * job->heads + h) * 2]);
        memset(to, 0, sizeof(float) * job->dim);
        for (int64_t s = first; s < last; s++) {
            const float *stats = job->stats + (s * job->heads + h) * 2, *from = job->partial + (s * job->heads + h) * job->dim;
            float share = expf(stats[0] - best);
            weight += share * stats[1];
            for (int d = 0; d < job->dim; d++) to[d] += share * from[d];
        }
        for (int d = 0; d < job->dim; d++) to[d] /= weight;
    }
}

static inline int64_t take(Job *job) { return __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED); }

/* What each thread does: the next segment, until there is none. Whoever ends a row's last segment merges it. */
static void work(void *argument) {
    Job *job = argument;
    int wide = (job->dim + LANES - 1) / LANES * LANES;
    size_t rows = (size_t)job->heads * wide;
    size_t floats = 2 * rows + (size_t)TILE * wide; /* a multiple of 16: what follows is aligned too */
    float *room = aligned_alloc(64, floats * sizeof(float) + job->heads * sizeof(State));
    if (!room) abort();
    Scratch s = {room, room + rows, room + 2 * rows, (State *)(room + floats)};
    int64_t n;
    while ((n = take(job)) < job->count) {
        int64_t after = __atomic_load_n(&job->next, __ATOMIC_RELAXED); /* likely ours: its first keys are asked for */
        const int64_t *segment = job->segments + 4 * n, *coming = job->segments + 4 * (after < job->count ? after : n);
        begin(job, &s, job->queries + segment[0] * job->heads * job->dim, wide);
        attend(job, &s, job->blocks + segment[1], segment[2], job->blocks[coming[1]] * job->block_bytes, wide);
        finish(job, &s, segment[0], n, segment[3], wide);
        if (!segment[3] && __atomic_sub_fetch(job->left + segment[0], 1, __ATOMIC_ACQ_REL) == 0) merge(job, segment[0]);
    }
    free(room);
}

void aquasim_attend(Pool *pool, Job *job) {
    job->next = 0;
    for (int64_t row = 0; row < job->rows; row++) job->left[row] = job->firsts[row + 1] - job->firsts[row];
    together(pool, work, job);
}

/* --- a plain read, to compare with ----------------------------------------------------------------------------- */

#define PIECE (1 << 20)

static void sum(void *argument) {
    Job *job = argument;
    int64_t n;
    ivec sums[4] = {0};
    while ((n = take(job)) < job->count) {
        const char *from = job->keys + n * PIECE;
        for (int64_t at = 0; at < PIECE; at += sizeof sums)
            for (int i = 0; i < 4; i++) sums[i] += (ivec)load((const float *)(from + at) + i * LANES);
    }
    ivec all = sums[0] + sums[1] + sums[2] + sums[3];
    __atomic_fetch_add(job->left, all[0] + all[7] + all[15], __ATOMIC_RELAXED); /* so that nothing is left out */
}

/* Read `count` MiB from `from`, 64 bytes aligned, on all threads. */
int32_t aquasim_read(Pool *pool, const char *from, int64_t count) {
    int32_t found = 0;
    Job job = {.keys = from, .count = count, .left = &found};
    together(pool, sum, &job);
    return found;
}
