/* What the machine can do: one thread reads another process's memory, one writes it to standard output.
 *
 * limit PID ADDRESS BYTES BUFFER_BYTES BUFFERS
 *
 * Prints the seconds from the first read to the end of the last write on standard error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static pid_t pid;
static uintptr_t address;
static size_t total, buffer_bytes, buffers;
static uint8_t *store;
static size_t filled, emptied; /* numbers of buffers */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static size_t length_of(size_t index)
{
    size_t begin = index * buffer_bytes;
    return total - begin < buffer_bytes ? total - begin : buffer_bytes;
}

static void await(const size_t *behind, const size_t *ahead, size_t distance)
{
    pthread_mutex_lock(&lock);
    while (*ahead - *behind == distance)
        pthread_cond_wait(&moved, &lock);
    pthread_mutex_unlock(&lock);
}

static void advance(size_t *number)
{
    pthread_mutex_lock(&lock);
    ++*number;
    pthread_cond_signal(&moved);
    pthread_mutex_unlock(&lock);
}

static void *read_all(void *unused)
{
    for (size_t index = 0; index * buffer_bytes < total; index++) {
        await(&emptied, &filled, buffers);
        struct iovec local = {store + index % buffers * buffer_bytes, length_of(index)};
        struct iovec remote = {(void *)(address + index * buffer_bytes), length_of(index)};
        if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != (ssize_t)local.iov_len)
            die("process_vm_readv");
        advance(&filled);
    }
    return unused;
}

static void write_all(void)
{
    for (size_t index = 0; index * buffer_bytes < total; index++) {
        await(&emptied, &filled, 0);
        uint8_t *from = store + index % buffers * buffer_bytes;
        size_t left = length_of(index);
        while (left) {
            ssize_t done = write(1, from, left);
            if (done < 0 && errno != EINTR)
                die("write");
            if (done > 0) {
                from += done;
                left -= (size_t)done;
            }
        }
        advance(&emptied);
    }
}

int main(int count, char **words)
{
    if (count != 6)
        return 2;
    pid = atoi(words[1]);
    address = strtoul(words[2], NULL, 0);
    total = strtoul(words[3], NULL, 0);
    buffer_bytes = strtoul(words[4], NULL, 0);
    buffers = strtoul(words[5], NULL, 0);
    store = mmap(NULL, buffer_bytes * buffers, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (store == MAP_FAILED)
        die("mmap");
    fcntl(1, F_SETPIPE_SZ, 1 << 20);
    struct timespec begun, ended;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    pthread_t reader;
    if (pthread_create(&reader, NULL, read_all, NULL))
        die("pthread_create");
    write_all();
    clock_gettime(CLOCK_MONOTONIC, &ended);
    fprintf(stderr, "%.6f\n", (double)(ended.tv_sec - begun.tv_sec) + (double)(ended.tv_nsec - begun.tv_nsec) / 1e9);
    return 0;
}
