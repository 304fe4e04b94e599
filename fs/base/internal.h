/* internal.h: what the files of fs/base, and their tests, share beyond the public headers. */
#ifndef DMT_BASE_INTERNAL_H
#define DMT_BASE_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

/* The CRC without the machine's instruction; tests hold the two against each other. */
uint32_t base_crc32c_portable(uint32_t crc, const void *p, size_t n);

#endif
