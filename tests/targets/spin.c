/* argv[1] threads that never sleep. */
#include "target.h"

static void *spin(void *unused)
{
    (void)unused;
    for (;;)
        __atomic_fetch_add(&state->counter, 1, __ATOMIC_RELAXED);
    return NULL;
}

int main(int argc, char **argv)
{
    target_begin();
    int threads = argc > 1 ? atoi(argv[1]) : 16;
    for (int i = 1; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, spin, NULL))
            die("pthread_create");
    }
    target_ready();
    spin(NULL);
}
