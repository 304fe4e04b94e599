/* fuzz_wire.c: frames of the replica protocol, of every type, and their payloads. modules: replica
 *
 * The input is what a peer sends: frames one after the other. What is taken as a frame must encode
 * to the very same bytes; its lists and payloads are unpacked as the replica does it. A decision
 * core that has seen one epoch is asked about each frame: one of a lower epoch must never be let
 * through.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/base/err.h"
#include "fs/base/log.h"
#include "fs/replica/branch_core.h"
#include "fs/replica/core.h"
#include "fs/replica/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SEEN 3u

static void check_payload(struct replica_span s, uint32_t raw_len, uint32_t most)
{
    static struct replica_unpack *u;
    if (raw_len > most)
        return; /* refused before anything is allocated */
    if (!u)
        DMT_ASSERT(replica_unpack_new(&u) == 0);
    uint8_t *raw = malloc(raw_len ? raw_len : 1);
    DMT_ASSERT(raw);
    int r = replica_unpack(u, s, raw, raw_len);
    DMT_ASSERT(r == 0 || r == DMT_E_CORRUPT);
    free(raw);
}

static void check_core(uint8_t type, uint64_t epoch)
{
    struct replica_core c;
    struct replica_actions as;
    replica_core_init(&c);
    struct replica_event role = {
        .type = REPLICA_EV_ROLE, .role = DMT_REPLICA_RECEIVER, .seen = SEEN};
    replica_step(&c, &role, &as);
    int otherwise = type >= REPLICA_BRANCH ? 1 : -EPROTO; /* of a branch: late, never wrong */
    DMT_ASSERT(replica_core_takes(&c, type, epoch) == (epoch < SEEN ? DMT_E_STALE : otherwise));
}

/* A name is taken or refused as a whole; an answer to what was not asked is refused. */
static void check_branch(const struct replica_msg *m)
{
    struct branches b = {0};
    struct replica_span name = m->BRANCH.name;
    const char *p = (const char *)name.p;
    branches_start(&b);
    bool ok = dmt_branch_name_ok(p, name.n);
    DMT_ASSERT(branches_heard(&b, p, name.n, m->BRANCH.removed) == ok && b.n == ok);
    DMT_ASSERT(!ok || (name.n <= DMT_BRANCH_NAME_MAX && !memchr(p, '/', name.n) && p[0] != '.'));
    struct dmt_branch_piece piece = {.size = 1, .len = 1};
    DMT_ASSERT(branches_data(&b, p, name.n, &piece) == -1);
    DMT_ASSERT(branches_end(&b, p, name.n, 1, 0) == -1);
    branches_free(&b);
}

static void check_inside(const struct replica_msg *m)
{
    static struct replica_epoch v[REPLICA_EPOCHS_MAX];
    char text[64];
    switch (m->type) {
    case REPLICA_HELLO: {
        int n = replica_epochs_decode(m->HELLO.epochs, v);
        DMT_ASSERT(n == DMT_E_CORRUPT || (n >= 0 && n <= (int)REPLICA_EPOCHS_MAX));
        if (n >= 0)
            DMT_ASSERT(replica_fork(v, (size_t)n, v, (size_t)n) == REPLICA_NO_FORK);
        replica_span_text(m->HELLO.node, text, sizeof(text));
        break;
    }
    case REPLICA_RECORDS:
        check_payload(m->RECORDS.data, m->RECORDS.raw_len, REPLICA_RAW_MAX);
        check_core(m->type, m->RECORDS.epoch);
        break;
    case REPLICA_BULK:
        check_payload(m->BULK.data, m->BULK.raw_len, REPLICA_BULK_MAX);
        check_core(m->type, m->BULK.epoch);
        break;
    case REPLICA_STATE:
        check_payload(m->STATE.data, m->STATE.raw_len, REPLICA_STATE_MAX);
        check_core(m->type, m->STATE.epoch);
        break;
    case REPLICA_BRANCH:
        check_branch(m);
        check_core(m->type, m->BRANCH.epoch);
        break;
    case REPLICA_BRANCH_DATA:
        check_payload(m->BRANCH_DATA.data, m->BRANCH_DATA.raw_len, REPLICA_BULK_MAX);
        check_core(m->type, m->BRANCH_DATA.epoch);
        break;
    case REPLICA_BYE:
        replica_span_text(m->BYE.text, text, sizeof(text));
        DMT_ASSERT(!strpbrk(text, "\n\r\033"));
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (size_t at = 0;;) {
        uint8_t type;
        uint32_t len;
        int r = replica_head(data + at, size - at, &type, &len);
        DMT_ASSERT(r == 0 || r == 1 || r == DMT_E_CORRUPT);
        if (r != 1 || size - at < REPLICA_HEAD + len)
            return 0;
        struct replica_msg m;
        r = replica_decode(type, data + at + REPLICA_HEAD, len, &m);
        DMT_ASSERT(r == 0 || r == DMT_E_CORRUPT);
        if (r < 0)
            return 0;
        struct dmt_buf again;
        dmt_buf_init(&again);
        replica_encode(&m, &again);
        DMT_ASSERT(!again.bad && again.len == REPLICA_HEAD + len &&
                   memcmp(again.p, data + at, again.len) == 0);
        dmt_buf_free(&again);
        check_inside(&m);
        at += REPLICA_HEAD + len;
    }
}
