/* How fast memory is copied here: memcpy MIB THREADS
 *
 * Copies MIB of private memory in pages of 4 KiB to memory in huge pages, where there are any, both of which are there
 * already, with so many threads. Prints the seconds it took. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MAX_THREADS 64

static uint8_t *from, *to;
static size_t part;

static uint8_t *populated(size_t bytes, int advice)
{
    uint8_t *area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    madvise(area, bytes, advice);
    memset(area, 0x5a, bytes);
    return area;
}

static void *copy(void *number)
{
    memcpy(to + (uintptr_t)number * part, from + (uintptr_t)number * part, part);
    return NULL;
}

int main(int count, char **words)
{
    if (count != 3)
        return 2;
    size_t bytes = strtoul(words[1], NULL, 10) << 20;
    uintptr_t threads = strtoul(words[2], NULL, 10);
    if (!threads || threads > MAX_THREADS)
        return 2;
    from = populated(bytes, MADV_NOHUGEPAGE);
    to = populated(bytes, MADV_HUGEPAGE);
    part = bytes / threads;
    pthread_t copiers[MAX_THREADS];
    struct timespec begun, ended;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (uintptr_t number = 1; number < threads; number++)
        if (pthread_create(&copiers[number], NULL, copy, (void *)number))
            return 1;
    copy((void *)0);
    for (uintptr_t number = 1; number < threads; number++)
        pthread_join(copiers[number], NULL);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    printf("%.6f\n", (double)(ended.tv_sec - begun.tv_sec) + (double)(ended.tv_nsec - begun.tv_nsec) / 1e9);
    return 0;
}
