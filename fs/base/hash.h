/* hash.h: CRC-32C (RFC 3720, hardware when there is SSE4.2), the rolling chain hash (XXH3-64 seeded with the previous
 * value), hex. Any thread. */
#ifndef DMT_BASE_HASH_H
#define DMT_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* crc: 0 to start, or the value of the bytes before. */
uint32_t dmt_crc32c(uint32_t crc, const void *p, size_t n);
uint64_t dmt_hash64(uint64_t seed, const void *p, size_t n); /* XXH3_64bits_withSeed */
void dmt_hex(const void *p, size_t n, char *ret);            /* 2n digits + NUL */
int dmt_unhex(const char *s, void *ret, size_t n);           /* exactly 2n digits, or -EINVAL */

#endif
