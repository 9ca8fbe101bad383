/* extended KIND: the main thread keeps data in registers that not every machine has, and finds any change.
 *
 * tiles        AMX: tiles 4 to 7 hold a pattern; 0 to 2 take part in a multiplication whose result is known, round by round
 * vectors      AVX-512: registers zmm16 to zmm31 and the masks k1 to k7 hold a pattern
 * sve [BYTES]  Arm: z0 to z31, p0 to p15 and FFR hold a pattern; BYTES: vector length, the usual one if not given
 * Ends with 77 where there are no such registers.
 */
#include "target.h"

#include <sys/syscall.h>

#define LACKING 77

static void fail(const char *what)
{
    __atomic_fetch_add(&state->failures, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "extended: %s\n", what);
}

static void spin(void)
{
    for (long i = 0; i < 300000; i++)
        __asm__ volatile("");
}

#ifdef __x86_64__
#include <cpuid.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18
#define TILE_BYTES 1024UL

static int has(uint32_t leaf, char reg, int bit)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid_count(leaf, 0, &a, &b, &c, &d))
        return 0;
    return (reg == 'b' ? b : d) >> bit & 1;
}

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_a_row[16];
    uint8_t rows[16];
} __attribute__((packed, aligned(64)));

static uint8_t held[4][TILE_BYTES] __attribute__((aligned(64))); /* loaded into tiles 4 to 7 once */
static uint8_t stored[TILE_BYTES] __attribute__((aligned(64)));

#define LOAD(tile, from) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"(64L) : "memory")
#define STORE(tile, to) __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"(64L) : "memory")

static void compare_tile(const uint8_t *wanted)
{
    if (memcmp(stored, wanted, TILE_BYTES))
        fail("a tile changed");
}

static void keep_tiles(void)
{
    static struct tile_config config = {.palette = 1};
    static int8_t ones[TILE_BYTES];
    static int32_t sums[TILE_BYTES / 4], wanted[TILE_BYTES / 4];
    if (!has(7, 'd', 24) || !has(7, 'd', 25) || syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA))
        exit(LACKING);
    for (int tile = 0; tile < 8; tile++)
        config.bytes_a_row[tile] = 64, config.rows[tile] = 16;
    for (size_t i = 0; i < sizeof held / 8; i++)
        ((uint64_t *)held)[i] = pattern_word(i);
    memset(ones, 1, sizeof ones);
    for (int i = 0; i < 256; i++)
        wanted[i] = 64; /* 64 products of 1 and 1 */
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
    LOAD(4, held[0]);
    LOAD(5, held[1]);
    LOAD(6, held[2]);
    LOAD(7, held[3]);
    target_ready();
    for (;;) {
        __asm__ volatile("tilezero %%tmm0" : :);
        LOAD(1, ones);
        LOAD(2, ones);
        spin();
        __asm__ volatile("tdpbssd %%tmm2, %%tmm1, %%tmm0" : :);
        STORE(0, sums);
        if (memcmp(sums, wanted, sizeof wanted))
            fail("a product is wrong");
        STORE(4, stored);
        compare_tile(held[0]);
        STORE(5, stored);
        compare_tile(held[1]);
        STORE(6, stored);
        compare_tile(held[2]);
        STORE(7, stored);
        compare_tile(held[3]);
        state->counter++;
    }
}

struct vectors {
    uint64_t zmm[16][8]; /* zmm16 to zmm31 */
    uint64_t masks[7];   /* k1 to k7 */
};

static void keep_vectors(void)
{
    static struct vectors in, out;
    if (!has(7, 'b', 16) || !has(7, 'b', 30))
        exit(LACKING);
    fill_pattern(&in, sizeof in);
    target_ready(); /* before: the C library uses these registers itself */
    __asm__ volatile(".irp r,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
                     "vmovdqu64 (\\r-16)*64(%0), %%zmm\\r\n"
                     ".endr\n"
                     ".irp k,1,2,3,4,5,6,7\n"
                     "kmovq 1024+(\\k-1)*8(%0), %%k\\k\n"
                     ".endr"
                     :
                     : "r"(&in)
                     : "memory");
    for (;;) {
        spin();
        __asm__ volatile(".irp r,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
                         "vmovdqu64 %%zmm\\r, (\\r-16)*64(%0)\n"
                         ".endr\n"
                         ".irp k,1,2,3,4,5,6,7\n"
                         "kmovq %%k\\k, 1024+(\\k-1)*8(%0)\n"
                         ".endr"
                         :
                         : "r"(&out)
                         : "memory");
        const volatile uint64_t *wanted = (uint64_t *)&in, *found = (uint64_t *)&out; /* memcmp may use the registers */
        for (size_t i = 0; i < sizeof in / 8; i++)
            if (wanted[i] != found[i])
                fail("a register changed");
        state->counter++;
    }
}

#else
#include "scalable.h"

static void keep_scalable(long bytes)
{
    static struct scalable in, out;
    bytes = fill_scalable(&in, bytes);
    if (!bytes)
        exit(LACKING);
    fact("vector_bytes=%ld\n", bytes);
    target_ready();
    LOAD_SCALABLE(in);
    for (;;) {
        spin();
        __asm__ volatile(".arch_extension sve\n" MOVE(str, "%0", "%1") "rdffr p0.b\n str p0, [%2]\n ldr p0, [%1]\n"
                         :
                         : "r"(out.z), "r"(out.p), "r"(out.ffr)
                         : "memory");
        const volatile uint64_t *wanted = (uint64_t *)&in, *found = (uint64_t *)&out; /* memcmp may use the registers */
        for (size_t i = 0; i < sizeof in / 8; i++)
            if (wanted[i] != found[i])
                fail("a register changed");
        state->counter++;
    }
}
#endif

int main(int count, char **arguments)
{
    const char *kind = count > 1 ? arguments[1] : "";
    target_begin();
#ifdef __x86_64__
    if (!strcmp(kind, "vectors"))
        keep_vectors();
    if (!strcmp(kind, "tiles"))
        keep_tiles();
#else
    if (!strcmp(kind, "sve"))
        keep_scalable(count > 2 ? atol(arguments[2]) : 0);
#endif
    return LACKING;
}
