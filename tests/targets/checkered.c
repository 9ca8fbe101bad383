/* Many short runs of touched pages: every second page of a large area, so that one buffer takes thousands of ranges. */
#include "target.h"

#define COUNT 6000UL

int main(void)
{
    target_begin();
    unsigned long step = 2 * PAGE;
    char *area = map_anonymous(COUNT * step, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    madvise(area, COUNT * step, MADV_NOHUGEPAGE);
    for (unsigned long i = 0; i < COUNT; i++)
        *(uint64_t *)(area + i * step) = pattern_word(i);
    /* a guard page (Linux 6.13) among the untouched ones: it looks swapped and cannot be read */
    madvise(area + PAGE, PAGE, 102 /* MADV_GUARD_INSTALL */);
    fact("area=%p\ncount=%lu\nstep=%lu\n", area, COUNT, step);
    target_ready();
    beat_forever();
}
