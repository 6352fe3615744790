/* Paged decode attention on a host's cores (NEO, section 4; flash decoding).
 *
 * A row is one query of one sequence. Its tokens are cut into segments, each a unit of work for whichever thread is
 * free; the segments of a row are then merged, in order, by their log-sum-exp. How a row is cut depends on its length
 * alone, so that no result depends on the number of threads or on which other rows there are.
 *
 * A segment is seen chunk by chunk, each small enough for a core's cache together with the one after it, which comes
 * from memory meanwhile. Keys and values are read and brought to float32 once for up to 8 queries, whose sums stay in
 * registers: as many sums as a register has lanes. Sums are in float32.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "chunks.h"
#include "job.h"
#include "threads.h"
#include "vectors.h"

#define NOTHING (-1e30f)

/* A register of a stored row from element `at` on, in float32; where fewer than all are left, the rest is 0. */
HOT vec widen(const char *row, int at, int count, int kind) {
    char part[4 * LANES];
    int size = kind == FLOAT32 ? 4 : 2;
    row += at * size;
    if (count < LANES) row = memcpy(memset(part, 0, sizeof part), row, count * size);
    if (kind == FLOAT32) return load((const void *)row);
    return kind == FLOAT16 ? half((const void *)row) : brain((const void *)row);
}

HOT vec some(const float *row, int at, int count) { return widen((const char *)row, at, count, FLOAT32); }

HOT void keep(float *to, vec value, int count) {
    if (count == LANES) store(to, value);
    else memcpy(to, &value, count * sizeof *to);
}

/* --- a chunk seen by a few queries of one KV head ----------------------------------------------------------------- */

typedef struct {
    vec best, weight; /* lane token * queries + query, as scores are; `best` is the same for all tokens */
} State;

/* A row's segment on its way. */
typedef struct {
    const Job *job;
    const Chunk *chunk, *next;
    State *states; /* [heads], the first of those that are seen together */
    const float *queries; /* [heads, dim] */
    float *to, *stats;    /* [heads, dim], [heads, 2] */
    int first, last, alone;
} Segment;

/* Part of the products of some tokens' keys with `n` queries. */
HOT void multiply(
    vec *sums, const float *queries, const char *keys, const int64_t *at, int d, int dim, int count, int kind, int n) {
    vec query[8];
#pragma GCC unroll 8
    for (int q = 0; q < n; q++) query[q] = some(queries + q * dim, d, count);
#pragma GCC unroll 16
    for (int t = 0; t < LANES / n; t++) {
        vec key = widen(keys + at[t], d, count, kind);
#pragma GCC unroll 8
        for (int q = 0; q < n; q++) sums[t * n + q] += query[q] * key;
    }
}

/* Scores of LANES / n tokens for n queries: lane token * n + query. */
HOT vec dots(const float *queries, const char *keys, const int64_t *at, int dim, int kind, int n, int whole) {
    vec sums[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) sums[i] = (vec){}; /* one by one, or compilers keep them in memory */
    int d = 0;
    for (; d + LANES <= dim; d += LANES) multiply(sums, queries, keys, at, d, dim, LANES, kind, n);
    if (!whole) multiply(sums, queries, keys, at, d, dim, dim - d, kind, n);
    return fold_all(sums);
}

/* Bring what each query has over its tokens together: the greatest, or the sum; in all of its lanes. */
HOT vec across(vec each, int sum, int n) {
    float all[LANES], found[LANES];
    store(all, each);
    for (int q = 0; q < n; q++) {
        float one = all[q];
        for (int i = q + n; i < LANES; i += n) one = sum ? one + all[i] : all[i] > one ? all[i] : one;
        for (int i = q; i < LANES; i += n) found[i] = one;
    }
    return load(found);
}

/* Turn scores into weights; return by how much less earlier ones weigh. */
HOT vec weigh(State *state, float *scores, int tokens, int n) {
    vec best = state->best, sum = {};
    for (int i = tokens * n; i % LANES; i++) scores[i] = NOTHING;
    for (int i = 0; i < tokens * n; i += LANES) best = greater(load(scores + i), best);
    best = across(best, 0, n);
    for (int i = 0; i < tokens * n; i += LANES) {
        vec weights = power(load(scores + i) - best);
        sum += weights;
        store(scores + i, weights);
    }
    vec shrink = power(state->best - best);
    *state = (State){best, state->weight * shrink + sum};
    return shrink;
}

/* Add `wide` registers of values, by weight, to what n queries have so far, scaled by `shrink`; then scale by `share`. */
HOT void mix(const Segment *s, const char *values, const float *weights, const float *shrink, const float *share,
    float *to, int d, int count, int wide, int kind, int n) {
    int dim = s->job->dim, tokens = s->chunk->tokens, size = kind == FLOAT32 ? 4 : 2;
    vec sums[LANES];
#pragma GCC unroll 8
    for (int q = 0; q < n; q++)
#pragma GCC unroll 4
        for (int v = 0; v < wide; v++)
            sums[q * wide + v] = s->first ? (vec){} : some(to + q * dim, d + v * LANES, count) * shrink[q];
    for (int t = 0; t < tokens; t++) {
        vec value[4];
        fetch(values + s->next->at[t] + d * size, wide * LANES * size);
#pragma GCC unroll 4
        for (int v = 0; v < wide; v++) value[v] = widen(values + s->chunk->at[t], d + v * LANES, count, kind);
#pragma GCC unroll 8
        for (int q = 0; q < n; q++)
#pragma GCC unroll 4
            for (int v = 0; v < wide; v++) sums[q * wide + v] += value[v] * weights[t * n + q];
    }
#pragma GCC unroll 8
    for (int q = 0; q < n; q++)
#pragma GCC unroll 4
        for (int v = 0; v < wide; v++) keep(to + q * dim + d + v * LANES, sums[q * wide + v] * share[q], count);
}

/* A chunk of one KV head, seen by the n queries from `head` on. */
HOT void see(Segment *s, int head, int64_t place, int kind, int n, int whole) {
    const Job *job = s->job;
    const int wide = n * 4 > LANES ? LANES / n : 4;
    const char *keys = job->keys + place, *values = job->values + place;
    float scores[CHUNK * 8 + LANES], shrink[LANES], share[LANES];
    int d = 0, dim = job->dim, size = kind == FLOAT32 ? 4 : 2;
    for (int t = 0; t < s->chunk->tokens; t += LANES / n) {
        for (int i = 0; i < LANES / n; i++) fetch(keys + s->next->at[t + i], dim * size);
        store(scores + t * n, dots(s->queries + head * dim, keys, s->chunk->at + t, dim, kind, n, whole) * job->scale);
    }
    State *state = s->states + head;
    store(shrink, weigh(state, scores, s->chunk->tokens, n));
    store(share, (vec){} + 1.0f);
    if (s->last) {
        vec weight = across(state->weight, 1, n);
        if (s->alone) store(share, 1.0f / weight);
        for (int q = 0; q < n && !s->alone; q++) {
            s->stats[2 * (head + q)] = state->best[q];
            s->stats[2 * (head + q) + 1] = weight[q];
        }
    }
    float *to = s->to + head * dim;
    for (; d + wide * LANES <= dim; d += wide * LANES) mix(s, values, scores, shrink, share, to, d, LANES, wide, kind, n);
    for (; d + LANES <= dim; d += LANES) mix(s, values, scores, shrink, share, to, d, LANES, 1, kind, n);
    if (!whole) mix(s, values, scores, shrink, share, to, d, dim - d, 1, kind, n);
}

/* One function for each type and number of queries, and those for heads of odd sizes, which are slower. */
#define SEE(name, kind, n, whole) \
    static void see_##name##_##n(Segment *s, int head, int64_t place) { see(s, head, place, kind, n, whole); }
#define SEE_ALL(name, kind, whole) \
    SEE(name, kind, 1, whole) SEE(name, kind, 2, whole) SEE(name, kind, 4, whole) SEE(name, kind, 8, whole)
SEE_ALL(float, FLOAT32, 1) SEE_ALL(half, FLOAT16, 1) SEE_ALL(brain, BFLOAT16, 1) SEE_ALL(odd, s->job->kind, 0)

typedef void See(Segment *, int, int64_t);
#define SEEN(name) {see_##name##_1, see_##name##_2, see_##name##_4, see_##name##_8}
static See *const seen[4][4] = {SEEN(float), SEEN(half), SEEN(brain), SEEN(odd)}; /* by log2 of the queries */

/* A chunk, by all heads. */
static void see_chunk(Segment *s) {
    const Job *job = s->job;
    int group = job->heads / job->kv_heads;
    for (int kv = 0; kv < job->kv_heads; kv++)
        for (int g = 0, power = 3; g < group;) {
            while (1 << power > group - g) power--;
            seen[job->dim % LANES ? 3 : job->kind][power](s, kv * group + g, token_bytes(job) / job->kv_heads * kv);
            g += 1 << power;
        }
}

/* --- segments of rows --------------------------------------------------------------------------------------------- */

/* Have a segment seen, chunk by chunk; `room` is for the states, `then` the segment that comes after it. */
static void attend(const Job *job, const int64_t *segment, int64_t number, const int64_t *then, State *states) {
    int64_t row = segment[0], tokens = segment[2], heads = job->heads, dim = job->dim;
    int most = chunk_tokens(job), alone = segment[3];
    Chunk chunks[2];
    Segment s = {.job = job, .states = states, .queries = job->queries + row * heads * dim, .alone = alone,
        .to = alone ? job->out + row * heads * dim : job->partial + number * heads * dim,
        .stats = job->stats + number * heads * 2};
    for (int h = 0; h < heads; h++) states[h] = (State){(vec){} + NOTHING, (vec){}};
    locate(job, chunks, job->blocks + segment[1], 0, tokens, most);
    int turn = 0;
    for (int64_t at = 0; at < tokens; at += most, turn = !turn) {
        Chunk *next = chunks + !turn;
        s.chunk = chunks + turn, s.first = at == 0, s.last = at + most >= tokens;
        if (!s.last) locate(job, next, job->blocks + segment[1], at + most, tokens, most);
        else if (then) locate(job, next, job->blocks + then[1], 0, then[2], most);
        s.next = s.last && !then ? s.chunk : next;
        see_chunk(&s);
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

/* What each thread does: the next segment, until there is none. Whoever ends a row's last segment merges it.
 * It takes one in advance, so as to know what to ask memory for. */
static void work(void *argument) {
    Job *job = argument;
    int64_t n = take(job), next;
    if (n >= job->count) return;
    State *states = aligned_alloc(64, job->heads * sizeof(State));
    if (!states) abort();
    for (; n < job->count; n = next) {
        next = take(job);
        const int64_t *segment = job->segments + 4 * n;
        attend(job, segment, n, next < job->count ? job->segments + 4 * next : NULL, states);
        if (!segment[3] && __atomic_sub_fetch(job->left + segment[0], 1, __ATOMIC_ACQ_REL) == 0) merge(job, segment[0]);
    }
    free(states);
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
