/* sparse [BYTES]: a reservation (1 TiB) with a handful of touched pages, one of which holds nothing but zeros. */
#include "target.h"

int main(int count, char **arguments)
{
    unsigned long reserved = count > 1 ? strtoul(arguments[1], NULL, 0) : 1UL << 40;
    target_begin();
    char *area = map_anonymous(reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
    madvise(area, reserved, MADV_NOHUGEPAGE);
    unsigned long touched[] = {0, 5 * PAGE, 1UL << 30, reserved / 2 + 7 * PAGE, reserved - PAGE};
    for (unsigned i = 0; i < sizeof touched / sizeof *touched; i++) {
        fill_pattern(area + touched[i], PAGE);
        fact("touched%u=%#lx\n", i, touched[i]);
    }
    unsigned long zero = reserved / 4;
    memset(area + zero, 0, PAGE); /* touched, and zero by content: not a hole */
    fact("area=%p\narea_bytes=%lu\nzero=%#lx\n", area, reserved, zero);
    target_ready();
    beat_forever();
}
