/* A reservation of 1 TiB with a handful of touched pages, one of which holds nothing but zeros. */
#include "target.h"

#define RESERVED (1UL << 40)

int main(void)
{
    target_begin();
    char *area = map_anonymous(RESERVED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
    madvise(area, RESERVED, MADV_NOHUGEPAGE);
    unsigned long touched[] = {0, 5 * PAGE, 1UL << 30, (1UL << 39) + 7 * PAGE, RESERVED - PAGE};
    for (unsigned i = 0; i < sizeof touched / sizeof *touched; i++) {
        fill_pattern(area + touched[i], PAGE);
        fact("touched%u=%#lx\n", i, touched[i]);
    }
    unsigned long zero = (1UL << 38);
    memset(area + zero, 0, PAGE); /* touched, and zero by content: not a hole */
    fact("area=%p\narea_bytes=%lu\nzero=%#lx\n", area, RESERVED, zero);
    target_ready();
    beat_forever();
}
