/* This machine's two walls: how fast its cores read memory, how fast they multiply.
 *
 * cc -O3 -march=native -pthread walls.c -o walls && ./walls THREADS [MIB]
 *
 * Prints one JSON object. Reading: each thread streams its own slice of a buffer far larger than
 * the caches, in huge pages, with prefetch; a pass ends when all threads are through; the best of
 * the passes is the wall. Multiplying: independent dot-product chains in registers, two operations
 * a multiply-add; null where the processor lacks the instruction.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__AVX512VNNI__) && defined(__AVX512BF16__)
#include <immintrin.h>
#define HAS_DOT 1
#else
#define HAS_DOT 0
#endif

enum { PASSES = 12, AHEAD = 2048, CHAINS = 16, ROUNDS = 2000000 };

typedef uint64_t Vector __attribute__((vector_size(64)));
typedef void (*Work)(int thread);

static int threads;
static const char *buffer;
static size_t slice;
static volatile uint64_t sink;
static pthread_barrier_t gate;
static Work work;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void read_slice(int thread) {
    const char *at = buffer + thread * slice, *end = at + slice;
    Vector a = {0}, b = {0}, c = {0}, d = {0};
    for (; at < end; at += 256) {
        __builtin_prefetch(at + AHEAD);
        __builtin_prefetch(at + AHEAD + 64);
        __builtin_prefetch(at + AHEAD + 128);
        __builtin_prefetch(at + AHEAD + 192);
        const Vector *v = (const Vector *)at;
        a ^= v[0], b ^= v[1], c ^= v[2], d ^= v[3];
    }
    a ^= b ^ c ^ d;
    sink = a[0] ^ a[7];
}

#if HAS_DOT
static void multiply_int8(int thread) {
    __m512i sums[CHAINS] = {0}, x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(thread + 1);
    /* Chains that the compiler knew to be equal would be computed once. */
    for (int at = 0; at < CHAINS; at++) __asm__ volatile("" : "+v"(sums[at]));
    for (int round = 0; round < ROUNDS; round++) {
        /* Opaque to the compiler, or it would fold the rounds into one. */
        __asm__ volatile("" : "+v"(x), "+v"(y));
#pragma GCC unroll 16
        for (int at = 0; at < CHAINS; at++) sums[at] = _mm512_dpbusd_epi32(sums[at], x, y);
    }
    for (int at = 1; at < CHAINS; at++) sums[0] = _mm512_add_epi32(sums[0], sums[at]);
    sink = _mm512_reduce_add_epi32(sums[0]);
}

static void multiply_bf16(int thread) {
    __m512 sums[CHAINS] = {0};
    __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f80), y = (__m512bh)_mm512_set1_epi16(0x3f80);
    for (int at = 0; at < CHAINS; at++) __asm__ volatile("" : "+v"(sums[at]));
    for (int round = 0; round < ROUNDS; round++) {
        __asm__ volatile("" : "+v"(x), "+v"(y));
#pragma GCC unroll 16
        for (int at = 0; at < CHAINS; at++) sums[at] = _mm512_dpbf16_ps(sums[at], x, y);
    }
    for (int at = 1; at < CHAINS; at++) sums[0] = _mm512_add_ps(sums[0], sums[at]);
    sink = (uint64_t)_mm512_reduce_add_ps(sums[0]) + thread;
}
#endif

static void *follow(void *number) {
    for (;;) {
        pthread_barrier_wait(&gate);
        if (!work) return NULL;
        work((int)(intptr_t)number);
        pthread_barrier_wait(&gate);
    }
}

/* Seconds of one pass: the calling thread is the first worker. */
static double pass(Work next) {
    work = next;
    pthread_barrier_wait(&gate);
    double began = now();
    work(0);
    pthread_barrier_wait(&gate);
    return now() - began;
}

static int rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int count, char **words) {
    if (count < 2 || (threads = atoi(words[1])) < 1) {
        fprintf(stderr, "usage: %s THREADS [MIB]\n", words[0]);
        return 2;
    }
    size_t mib = count > 2 ? strtoul(words[2], NULL, 10) : 1024;
    slice = (mib << 20) / threads / 4096 * 4096;
    size_t size = slice * threads, huge = 2 << 20;
    char *space = mmap(NULL, size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (space == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    space = (char *)(((uintptr_t)space + huge - 1) & ~(uintptr_t)(huge - 1));
    madvise(space, size, MADV_HUGEPAGE);
    memset(space, 1, size);
    buffer = space;
    pthread_barrier_init(&gate, NULL, threads);
    pthread_t others[threads];
    for (int at = 1; at < threads; at++)
        pthread_create(&others[at], NULL, follow, (void *)(intptr_t)at);

    double seconds[PASSES];
    for (int at = 0; at < PASSES; at++) seconds[at] = pass(read_slice);
    qsort(seconds, PASSES, sizeof *seconds, rising);
    printf("{\"threads\": %d, \"read_gb_s\": %.2f, \"read_median_gb_s\": %.2f", threads,
           1e-9 * size / seconds[0], 1e-9 * size / seconds[PASSES / 2]);
#if HAS_DOT
    double operations = 2.0 * threads * ROUNDS * CHAINS;
    double bf16 = 1e9, int8 = 1e9, took;
    for (int at = 0; at < 3; at++) {
        if ((took = pass(multiply_bf16)) < bf16) bf16 = took;
        if ((took = pass(multiply_int8)) < int8) int8 = took;
    }
    printf(", \"bf16_gflop_s\": %.1f, \"int8_gop_s\": %.1f}\n", 1e-9 * operations * 32 / bf16,
           1e-9 * operations * 64 / int8);
#else
    printf(", \"bf16_gflop_s\": null, \"int8_gop_s\": null}\n");
#endif
    work = NULL;
    pthread_barrier_wait(&gate);
    for (int at = 1; at < threads; at++) pthread_join(others[at], NULL);
    return 0;
}
