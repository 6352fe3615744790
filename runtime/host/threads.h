/* Threads that wait for work and share it. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t begun, ended;
    pthread_t *threads;
    void (*work)(void *);
    void *job;
    uint64_t number;
    int workers, active, open, quit;
} Pool;

static void *worker(void *argument) {
    Pool *pool = argument;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->quit && (!pool->open || pool->number == seen)) pthread_cond_wait(&pool->begun, &pool->lock);
        if (pool->quit) break;
        seen = pool->number;
        pool->active++;
        pthread_mutex_unlock(&pool->lock);
        pool->work(pool->job);
        pthread_mutex_lock(&pool->lock);
        if (--pool->active == 0) pthread_cond_signal(&pool->ended);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* The caller works too, and waits only for threads that took part: one that wakes late finds nothing to do. */
static void together(Pool *pool, void (*what)(void *), void *job) {
    pthread_mutex_lock(&pool->lock);
    pool->work = what;
    pool->job = job;
    pool->number++;
    pool->open = 1;
    if (pool->workers) pthread_cond_broadcast(&pool->begun);
    pthread_mutex_unlock(&pool->lock);
    what(job);
    pthread_mutex_lock(&pool->lock);
    pool->open = 0;
    while (pool->active) pthread_cond_wait(&pool->ended, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void aquasim_close(Pool *pool) {
    pthread_mutex_lock(&pool->lock);
    pool->quit = 1;
    pthread_cond_broadcast(&pool->begun);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->workers; i++) pthread_join(pool->threads[i], NULL);
    free(pool->threads);
    free(pool);
}

/* So many threads, the caller's among them; fewer where the system gives no more. NULL: no memory. */
Pool *aquasim_open(int threads) {
    Pool *pool = calloc(1, sizeof *pool);
    if (!pool || !(pool->threads = calloc(threads, sizeof *pool->threads))) return NULL;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->begun, NULL);
    pthread_cond_init(&pool->ended, NULL);
    while (pool->workers < threads - 1 && !pthread_create(pool->threads + pool->workers, NULL, worker, pool)) pool->workers++;
    return pool;
}

