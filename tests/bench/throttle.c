/* throttle BYTES_PER_SECOND: reads standard input no faster than that, and throws it away. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define STEP (64 << 10)

int main(int count, char **words)
{
    static char buffer[STEP];
    if (count != 2)
        return 2;
    double rate = atof(words[1]), taken = 0;
    struct timespec begun;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (;;) {
        ssize_t got = read(0, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0;
        taken += (double)got;
        double due = (double)begun.tv_sec + (double)begun.tv_nsec / 1e9 + taken / rate;
        struct timespec until = {(time_t)due, (long)((due - (double)(time_t)due) * 1e9)};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
            ;
    }
}
