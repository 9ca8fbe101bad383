/* 16 MiB of which the first and the last page are touched. */
#include "target.h"

#define BYTES (16UL << 20)

int main(void)
{
    target_begin();
    char *area = map_anonymous(BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    madvise(area, BYTES, MADV_NOHUGEPAGE);
    fill_pattern(area, PAGE);
    fill_pattern(area + BYTES - PAGE, PAGE);
    fact("area=%p\narea_bytes=%lu\n", area, BYTES);
    target_ready();
    beat_forever();
}
