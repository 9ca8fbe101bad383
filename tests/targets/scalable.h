/* Arm's scalable registers (SVE), all of them in memory: packed by the vector length. Behind target.h. */
#include <sys/auxv.h>

#define MOST_BYTES 256UL /* of a vector */

struct scalable {
    uint8_t z[32 * MOST_BYTES], p[16 * MOST_BYTES / 8], ffr[MOST_BYTES / 8]; /* packed by the vector length */
} __attribute__((aligned(64)));

/* ldr or str of all but FFR; z, p: names of the registers that hold the addresses. */
#define MOVE(op, z, p)                                                                                                 \
    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n" #op              \
    " z\\r, [" z ", \\r, mul vl]\n.endr\n"                                                                             \
    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n" #op " p\\r, [" p ", \\r, mul vl]\n.endr\n"

/* Sets the vector length, leaves the usual one with 0, and fills in what the registers are to hold. Returns the length in
 * bytes, 0 where there is no such. What FFR may hold is ones, then zeros. */
static long fill_scalable(struct scalable *registers, long bytes)
{
    if (!(getauxval(AT_HWCAP) & HWCAP_SVE) || (bytes && prctl(PR_SVE_SET_VL, bytes) != bytes))
        return 0;
    bytes = prctl(PR_SVE_GET_VL) & PR_SVE_VL_LEN_MASK;
    fill_pattern(registers->z, 32 * bytes);
    fill_pattern(registers->p, 16 * bytes / 8);
    memset(registers->ffr, 0xff, bytes / 16);
    return bytes;
}

/* From now on a system call clears what they hold beyond the first 128 bits. */
#define LOAD_SCALABLE(registers)                                                                                       \
    __asm__ volatile(".arch_extension sve\n"                                                                           \
                     "ldr p0, [%2]\n wrffr p0.b\n" MOVE(ldr, "%0", "%1")                                                \
                     :                                                                                                 \
                     : "r"((registers).z), "r"((registers).p), "r"((registers).ffr)                                    \
                     : "memory")
