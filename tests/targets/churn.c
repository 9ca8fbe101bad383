/* Four threads that do nothing but create threads and wait for their end. */
#include "target.h"

static void *short_lived(void *unused)
{
    __atomic_fetch_add(&state->counter, 1, __ATOMIC_RELAXED);
    return unused;
}

static void *churn(void *unused)
{
    (void)unused;
    for (;;) {
        pthread_t threads[4];
        int count = 0;
        while (count < 4 && !pthread_create(&threads[count], NULL, short_lived, NULL))
            count++;
        while (count)
            pthread_join(threads[--count], NULL);
    }
    return NULL;
}

int main(void)
{
    target_begin();
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, churn, NULL))
            die("pthread_create");
    }
    target_ready();
    churn(NULL);
}
