/* Nine threads, each parked in a function of its own, and 64 MiB (argv[1] bytes) whose content tells its place. */
#include "target.h"

#include <sys/rseq.h>

#include <dirent.h>
#include <sched.h>
#include <sys/syscall.h>

int known_value = 424242;
char known_text[] = "corepipe was here";

static int quiet_pipe[2]; /* nobody ever writes to it */
static pthread_barrier_t all_parked;

#define PARKED(name)                                            \
    __attribute__((noinline)) void park_##name(void)            \
    {                                                           \
        char byte;                                              \
        for (;;)                                                \
            if (read(quiet_pipe[0], &byte, 1) == 0)             \
                abort();                                        \
    }                                                           \
    static void *thread_##name(void *unused)                    \
    {                                                           \
        (void)unused;                                           \
        prctl(PR_SET_NAME, #name);                              \
        pthread_barrier_wait(&all_parked);                      \
        park_##name();                                          \
        return NULL;                                            \
    }

PARKED(one)
PARKED(two)
PARKED(three)
PARKED(four)
PARKED(five)
PARKED(six)
PARKED(seven)
PARKED(eight)

/* How many threads sleep in read(2) now: proc_pid_syscall(5). */
static int parked_threads(void)
{
    int parked = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; (task = readdir(tasks));) {
        char path[300];
        int number = -1;
        if (task->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/syscall", task->d_name);
        FILE *file = fopen(path, "re");
        if (!file)
            die(path);
        if (fscanf(file, "%d", &number) == 1 && number == SYS_read)
            parked += atoi(task->d_name) != getpid();
        fclose(file);
    }
    closedir(tasks);
    return parked;
}

int main(int argc, char **argv)
{
    void *(*bodies[])(void *) = {thread_one, thread_two, thread_three, thread_four,
                                 thread_five, thread_six, thread_seven, thread_eight};
    target_begin();
    if (pipe(quiet_pipe))
        die("pipe");
    pthread_barrier_init(&all_parked, NULL, 9);
    for (int i = 0; i < 8; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, bodies[i], NULL))
            die("pthread_create");
    }
    size_t bytes = argc > 1 ? strtoul(argv[1], NULL, 0) : 64UL << 20;
    void *area = map_anonymous(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    fill_pattern(area, bytes);
    pthread_barrier_wait(&all_parked);
    while (parked_threads() < 8)
        sched_yield();
    fact("area=%p\narea_bytes=%zu\n", area, bytes);
    fact("rseq_offset=%td\n", __rseq_offset);
    target_ready();
    beat_forever();
}
