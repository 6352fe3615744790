/* What a call computes; native.py has the same. */
#pragma once
#include <stdint.h>

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

/* The next segment that nobody has taken. */
static inline int64_t take(Job *job) { return __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED); }
