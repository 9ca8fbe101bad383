/* mapped mappings N | reserved TIB N | runs N: a process with many mappings, a large reservation, or many touched runs.
 * Prints "ready"; for each line of standard input it forks once and prints the nanoseconds which that took. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL

static char *reserve(unsigned long bytes)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (area == MAP_FAILED || madvise(area, bytes, MADV_NOHUGEPAGE)) {
        perror("mmap");
        exit(1);
    }
    return area;
}

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void touch_every(char *area, unsigned long step, unsigned long count)
{
    for (unsigned long i = 0; i < count; i++)
        area[i * step] = 1;
}

int main(int count, char **words)
{
    if (count == 3 && !strcmp(words[1], "mappings")) {
        unsigned long pairs = strtoul(words[2], NULL, 10) / 2;
        char *area = reserve(2 * pairs * PAGE);
        touch_every(area, 2 * PAGE, pairs);
        for (unsigned long i = 0; i < pairs; i++)
            if (mprotect(area + (2 * i + 1) * PAGE, PAGE, PROT_NONE)) {
                perror("mprotect");
                return 1;
            }
    } else if (count == 4 && !strcmp(words[1], "reserved")) {
        unsigned long bytes = strtoul(words[2], NULL, 10) << 40, runs = strtoul(words[3], NULL, 10);
        touch_every(reserve(bytes), bytes / runs / PAGE * PAGE, runs);
    } else if (count == 3 && !strcmp(words[1], "runs")) {
        unsigned long runs = strtoul(words[2], NULL, 10);
        touch_every(reserve(2 * runs * PAGE), 2 * PAGE, runs);
    } else {
        fprintf(stderr, "usage: mapped mappings N | reserved TIB N | runs N\n");
        return 2;
    }
    puts("ready");
    fflush(stdout);
    char line[16];
    while (fgets(line, sizeof line, stdin)) {
        long begun = now();
        pid_t child = fork();
        long ended = now();
        if (child == 0)
            _exit(0);
        waitpid(child, NULL, 0);
        printf("%ld\n", ended - begun);
        fflush(stdout);
    }
    return 0;
}
