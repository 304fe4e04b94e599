/* hash.c: checksums and hexadecimal.
 *
 * Owns a table for the portable CRC-32C, filled once. Happy path on x86-64: the SSE4.2 crc32
 * instruction, three streams at a time, because one stream waits 3 cycles for each result; the
 * streams are joined by multiplying with a constant power of x (in the table form: a shift by the
 * length of a stream). The two forms give the same numbers, which the tests compare. Failure: none.
 * Thread: any.
 */
#include "fs/base/hash.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <xxhash.h>

#include "fs/base/internal.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

#define POLY   0x82f63b78u /* CRC-32C, bits reversed */
#define STREAM 1024u       /* bytes of one of the three streams */

static pthread_once_t g_once = PTHREAD_ONCE_INIT;
static uint32_t g_table[8][256]; /* slicing by 8 */
static uint32_t g_shift[4][256]; /* what STREAM zero bytes do to a CRC, per byte of the CRC */
static bool g_have_sse42;

/* v * w over GF(2) modulo the polynomial, both bit-reversed. */
static uint32_t gf_multiply(uint32_t v, uint32_t w)
{
    uint32_t product = 0;
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1) {
        if (v & bit)
            product ^= w;
        w = w & 1 ? (w >> 1) ^ POLY : w >> 1;
    }
    return product;
}

static void hash_init(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? (c >> 1) ^ POLY : c >> 1;
        g_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            g_table[k][i] = (g_table[k - 1][i] >> 8) ^ g_table[0][g_table[k - 1][i] & 0xff];

    uint32_t x_pow = 0x80000000u >> 1; /* x^1; squared 13 times: x^(8 * 1024) */
    _Static_assert(STREAM * 8u == 1u << 13, "the power below belongs to STREAM");
    for (int i = 0; i < 13; i++)
        x_pow = gf_multiply(x_pow, x_pow);
    for (uint32_t b = 0; b < 4; b++)
        for (uint32_t i = 0; i < 256; i++)
            g_shift[b][i] = gf_multiply(x_pow, i << (8 * b));
#if defined(__x86_64__)
    __builtin_cpu_init();
    g_have_sse42 = __builtin_cpu_supports("sse4.2");
#endif
}

static uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static uint32_t crc_portable(uint32_t c, const uint8_t *p, size_t n)
{
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t v = load64(p) ^ c;
        c = g_table[7][v & 0xff] ^ g_table[6][(v >> 8) & 0xff] ^ g_table[5][(v >> 16) & 0xff] ^
            g_table[4][(v >> 24) & 0xff] ^ g_table[3][(v >> 32) & 0xff] ^
            g_table[2][(v >> 40) & 0xff] ^ g_table[1][(v >> 48) & 0xff] ^ g_table[0][v >> 56];
    }
    for (; n > 0; p++, n--)
        c = (c >> 8) ^ g_table[0][(c ^ *p) & 0xff];
    return c;
}

#if defined(__x86_64__)
static uint32_t shift_stream(uint32_t c)
{
    return g_shift[0][c & 0xff] ^ g_shift[1][(c >> 8) & 0xff] ^ g_shift[2][(c >> 16) & 0xff] ^
           g_shift[3][c >> 24];
}

__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t crc, const uint8_t *p,
                                                            size_t n)
{
    uint64_t a = crc;
    for (; n >= 3 * STREAM; p += 3 * STREAM, n -= 3 * STREAM) {
        uint64_t b = 0, c = 0;
        for (size_t i = 0; i < STREAM; i += 8) {
            a = _mm_crc32_u64(a, load64(p + i));
            b = _mm_crc32_u64(b, load64(p + STREAM + i));
            c = _mm_crc32_u64(c, load64(p + 2 * STREAM + i));
        }
        a = shift_stream((uint32_t)a) ^ (uint32_t)b;
        a = shift_stream((uint32_t)a) ^ (uint32_t)c;
    }
    for (; n >= 8; p += 8, n -= 8)
        a = _mm_crc32_u64(a, load64(p));
    uint32_t r = (uint32_t)a;
    for (; n > 0; p++, n--)
        r = _mm_crc32_u8(r, *p);
    return r;
}
#endif

uint32_t dmt_crc32c(uint32_t crc, const void *p, size_t n)
{
    pthread_once(&g_once, hash_init);
#if defined(__x86_64__)
    if (g_have_sse42)
        return ~crc_sse42(~crc, p, n);
#endif
    return ~crc_portable(~crc, p, n);
}

uint32_t base_crc32c_portable(uint32_t crc, const void *p, size_t n)
{
    pthread_once(&g_once, hash_init);
    return ~crc_portable(~crc, p, n);
}

uint64_t dmt_hash64(uint64_t seed, const void *p, size_t n)
{
    return XXH3_64bits_withSeed(p, n, seed);
}

void dmt_hex(const void *p, size_t n, char *ret)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *b = p;
    for (size_t i = 0; i < n; i++) {
        ret[2 * i] = digits[b[i] >> 4];
        ret[2 * i + 1] = digits[b[i] & 15];
    }
    ret[2 * n] = '\0';
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int dmt_unhex(const char *s, void *ret, size_t n)
{
    if (strlen(s) != 2 * n)
        return -EINVAL;
    for (size_t i = 0; i < 2 * n; i++)
        if (digit(s[i]) < 0)
            return -EINVAL;
    uint8_t *b = ret;
    for (size_t i = 0; i < n; i++)
        b[i] = (uint8_t)(digit(s[2 * i]) << 4 | digit(s[2 * i + 1]));
    return 0;
}
