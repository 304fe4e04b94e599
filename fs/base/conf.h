/* conf.h: configuration text. Two forms with the same keys (design 12): "key=value" lines of /etc/dumont/workspaces/NAME.conf
 * (# comments), and the comma list of mount -o (values may be quoted: key="a,b"). Any thread. */
#ifndef DMT_BASE_CONF_H
#define DMT_BASE_CONF_H

#include <stddef.h>
#include <stdint.h>
#include "fs/base/err.h"

struct dmt_conf; /* ordered list of key/value; a later key replaces an earlier one */
struct dmt_conf *dmt_conf_new(void);
void dmt_conf_free(struct dmt_conf *c);
/* Lines; errors name `path` and line. A missing file is -ENOENT. */
int dmt_conf_load(struct dmt_conf *c, const char *path, struct dmt_err *err);
/* Comma list; a word without '=' gets value "". */
int dmt_conf_options(struct dmt_conf *c, const char *list, struct dmt_err *err);
void dmt_conf_set(struct dmt_conf *c, const char *key, const char *value);
void dmt_conf_unset(struct dmt_conf *c, const char *key);
/* Valid until the key is set again or the conf freed; NULL if absent. */
const char *dmt_conf_get(const struct dmt_conf *c, const char *key);
size_t dmt_conf_count(const struct dmt_conf *c);
const char *dmt_conf_key(const struct dmt_conf *c, size_t i);
const char *dmt_conf_value(const struct dmt_conf *c, size_t i);
/* Writes the lines form by dmt_io_write_file. */
int dmt_conf_save(const struct dmt_conf *c, const char *path, struct dmt_err *err);
/* "10", "64M", "1.5G", "2TiB" -> bytes; "10s", "500ms", "2m" -> ms. 0 or -EINVAL. */
int dmt_parse_size(const char *s, uint64_t *ret_bytes);
int dmt_parse_duration_ms(const char *s, uint64_t *ret_ms);

#endif
