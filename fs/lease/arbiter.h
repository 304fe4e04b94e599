/* arbiter.h: what a workspace process and the controller say to each other (docs/formats-lease.md, "Arbiter"): JSON lines
 * inside mutual TLS 1.3. Shared with daemon/, which is the other end. Pure functions, any thread. */
#ifndef DMT_LEASE_ARBITER_H
#define DMT_LEASE_ARBITER_H

#include <jansson.h>
#include "fs/lease/core.h"

#define LEASE_ARBITER_VERSION 1
#define LEASE_LINE_MAX        65536u

json_t *lease_id_json(const struct lease_id *id);
bool lease_id_parse(const json_t *v, struct lease_id *ret);
/* NULL register content (epoch 0) is JSON null. */
json_t *lease_register_json(const struct lease_register *r);
bool lease_register_parse(const json_t *v, struct lease_register *ret);
json_t *lease_ask_json(const struct lease_ask *a);
bool lease_ask_parse(const json_t *v, struct lease_ask *ret);
/* u64 as 16 hex digits: JSON integers are signed. */
json_t *lease_u64_json(uint64_t v);
bool lease_u64_parse(const json_t *v, uint64_t *ret);

#endif
