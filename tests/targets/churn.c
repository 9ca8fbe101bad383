/* Four threads that do nothing but create threads and wait for their end.
 * churn COUNT: COUNT threads that sleep are there before them, and those that they create stay until they are told
 * to leave: one that comes up while its creator is being stopped is still there when the memory is read. */
#include "target.h"

#include <sys/syscall.h>

#define CREATORS 4
#define MOST 8

static volatile int living[CREATORS][MOST];
/* Ids of the threads that have begun and not ended. */
static volatile int leave[CREATORS][MOST];
static int sleepers;

static void *short_lived(void *slot)
{
    volatile int *mine = slot;
    *mine = (int)syscall(SYS_gettid);
    __atomic_fetch_add(&state->counter, 1, __ATOMIC_RELAXED);
    while (sleepers && !leave[(mine - living[0]) / MOST][(mine - living[0]) % MOST])
        usleep(1000);
    *mine = 0;
    return NULL;
}

/* As one thread has left, so the next is created. */
static void replace_each(volatile int *ids)
{
    pthread_t threads[MOST];
    int begun[MOST] = {0};
    volatile int *told = leave[(ids - living[0]) / MOST];
    for (int next = 0;; next = (next + 1) % MOST) {
        told[next] = 1;
        if (begun[next])
            pthread_join(threads[next], NULL);
        told[next] = 0;
        begun[next] = !pthread_create(&threads[next], NULL, short_lived, (void *)&ids[next]);
    }
}

static void *churn(void *slots)
{
    volatile int *ids = slots;
    if (sleepers)
        replace_each(ids);
    for (;;) {
        pthread_t threads[4];
        int count = 0;
        while (count < 4 && !pthread_create(&threads[count], NULL, short_lived, (void *)&ids[count]))
            count++;
        while (count)
            pthread_join(threads[--count], NULL);
    }
    return NULL;
}

static void *sleeper(void *unused)
{
    for (;;)
        pause();
    return unused;
}

int main(int argc, char **argv)
{
    target_begin();
    if (argc > 1)
        sleepers = atoi(argv[1]);
    for (int i = 0; i < sleepers; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, sleeper, NULL))
            die("pthread_create");
    }
    fact("living=%p\n", (void *)living);
    fact("living_count=%d\n", CREATORS * MOST);
    for (int i = 1; i < CREATORS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, churn, (void *)living[i]))
            die("pthread_create");
    }
    target_ready();
    churn((void *)living[0]);
}
