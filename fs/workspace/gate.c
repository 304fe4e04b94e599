/* gate.c: the gate of a workspace that is alone on one machine: nobody has to be asked. Owns
 * nothing; any thread. */
#include "fs/workspace/gate.h"

static int go(void *ctx)
{
    (void)ctx;
    return 0;
}

static int go_sync(void *ctx, uint64_t seq, uint64_t ino, uint64_t ref_seq)
{
    (void)ctx, (void)seq, (void)ino, (void)ref_seq;
    return 0;
}

static void ignore_want(void *ctx, uint64_t seq)
{
    (void)ctx, (void)seq;
}

static void ignore(void *ctx, uint64_t tail_seq, uint64_t bytes)
{
    (void)ctx, (void)tail_seq, (void)bytes;
}

static uint64_t no_limit(void *ctx)
{
    (void)ctx;
    return UINT64_MAX;
}

const struct dmt_gate *dmt_gate_open(void)
{
    static const struct dmt_gate open_gate = {
        .plain = go,
        .begin = go,
        .sync = go_sync,
        .appended = ignore,
        .wanted = ignore_want,
        .stable = no_limit,
        .peer_free = no_limit,
    };
    return &open_gate;
}
