/* owner.h: "USER[:GROUP]" (names or numbers) to ids. Without GROUP: the user's own group, or 0 for a number. Any thread that may
 * call getpwnam_r. */
#ifndef DMT_BASE_OWNER_H
#define DMT_BASE_OWNER_H

#include <stdint.h>
#include "fs/base/err.h"

int dmt_owner_parse(const char *spec, uint32_t *ret_uid, uint32_t *ret_gid, struct dmt_err *err);

#endif
