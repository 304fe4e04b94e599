/* wire.c: the messages of the ping channel as bytes (docs/formats-lease.md, "Ping channel"). One
 * fixed layout for all types, so a message is decoded without looking at state. The sender's
 * identity is not in it: it was told once in the channel's hello. Pure functions.
 */
#include <string.h>

#include "fs/lease/core.h"

void lease_msg_encode(const struct lease_msg *m, struct dmt_buf *out)
{
    dmt_put_u8(out, (uint8_t)m->type);
    dmt_put_u64(out, m->epoch);
    dmt_put_u64(out, m->sent_ns);
    dmt_put_u32(out, m->promise_ms);
    dmt_put_u32(out, m->rtt_us);
    dmt_put_u32(out, m->oldest_sync_ms);
    dmt_put_u32(out, m->flags);
}

int lease_msg_decode(const void *p, size_t n, struct lease_msg *ret)
{
    struct dmt_cur c = dmt_cur_of(p, n);
    memset(ret, 0, sizeof(*ret));
    uint8_t type = dmt_get_u8(&c);
    ret->epoch = dmt_get_u64(&c);
    ret->sent_ns = dmt_get_u64(&c);
    ret->promise_ms = dmt_get_u32(&c);
    ret->rtt_us = dmt_get_u32(&c);
    ret->oldest_sync_ms = dmt_get_u32(&c);
    ret->flags = dmt_get_u32(&c);
    if (dmt_cur_end(&c) < 0 || type < LEASE_PING || type > LEASE_BUCKET ||
        ret->promise_ms > LEASE_H_MAX_MS)
        return DMT_E_CORRUPT;
    ret->type = (enum lease_msg_type)type;
    return 0;
}
