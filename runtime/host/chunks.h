/* Where the tokens of a segment are, a few at a time. */
#pragma once
#include "job.h"
#include "vectors.h"

#define CHUNK 32              /* tokens at most */
#define CHUNK_BYTES (1 << 18) /* keys and values of a chunk: two chunks and what is theirs fit a cache of 1 MiB */
#define LINE 64
#define HOT static inline __attribute__((always_inline)) /* its last arguments are known when it is compiled */

typedef struct {
    int64_t at[CHUNK]; /* bytes from the layer's first key (or value) to each token's, all heads of it */
    int tokens;
} Chunk;

static int64_t token_bytes(const Job *job) {
    return (int64_t)job->kv_heads * job->dim * (job->kind == FLOAT32 ? 4 : 2);
}

static int chunk_tokens(const Job *job) {
    int tokens = CHUNK;
    while (tokens > LANES && tokens * 2 * token_bytes(job) > CHUNK_BYTES) tokens /= 2;
    return tokens;
}

/* Find up to `most` tokens from number `from` on, of `tokens` in `blocks`. Beyond the last it is named again. */
static void locate(const Job *job, Chunk *chunk, const int32_t *blocks, int64_t from, int64_t tokens, int most) {
    int64_t bytes = token_bytes(job), block = from / job->size, inside = from % job->size;
    chunk->tokens = tokens - from < most ? tokens - from : most;
    for (int t = 0; t < chunk->tokens; t++) {
        chunk->at[t] = blocks[block] * job->block_bytes + inside * bytes;
        if (++inside == job->size) block++, inside = 0;
    }
    for (int t = chunk->tokens; t < CHUNK; t++) chunk->at[t] = chunk->at[t - 1];
}

/* Ask memory for a part of a row of the next chunk. All of them at once would fill the buffers that loads need too. */
HOT void fetch(const char *from, int bytes) {
    for (int at = 0; at < bytes; at += LINE) __builtin_prefetch(from + at, 0, 2);
}
