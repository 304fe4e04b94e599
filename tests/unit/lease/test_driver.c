/* test_driver.c: the driver with its real threads: a lone workspace, and two nodes with a ping
 * channel over plain loopback sockets. The ops are those of a small fake L4 that records what it is
 * told. Everything is waited for by condition, with a deadline. */
#include "tests/unit/lease/core.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "fs/base/clock.h"
#include "fs/base/hash.h"
#include "fs/base/io.h"

struct fake {
    struct dmt_lease *l;
    char dir[64];
    atomic_uint opened, demoted, failed, may_stop, gates, drains;
    atomic_uint_fast64_t epoch, follow;
    atomic_int open_result;
    atomic_bool
        early; /* the peer acknowledges position 3 of the new epoch before open_epoch returns */
};

static void gate_changed(void *ctx)
{
    atomic_fetch_add(&((struct fake *)ctx)->gates, 1);
}

static int open_epoch(void *ctx, uint64_t epoch, bool alone, const char *reason)
{
    struct fake *f = ctx;
    (void)alone;
    (void)reason;
    int r = atomic_load(&f->open_result);
    if (r == 0) {
        atomic_store(&f->epoch, epoch);
        atomic_fetch_add(&f->opened, 1);
        if (atomic_load(&f->early))
            dmt_lease_peer_acked(f->l, (const uint8_t[16]){2}, epoch, 3, 3);
    }
    return r;
}

static void promote(void *ctx, uint64_t epoch, bool alone, bool forced, const char *reason)
{
    (void)forced;
    (void)open_epoch(ctx, epoch, alone, reason);
    dmt_lease_promote_done(((struct fake *)ctx)->l, 0);
}

static void demote(void *ctx)
{
    atomic_fetch_add(&((struct fake *)ctx)->demoted, 1);
}

static void follow(void *ctx, uint64_t epoch)
{
    atomic_store(&((struct fake *)ctx)->follow, epoch);
}

static void lose(void *ctx, uint64_t epoch, uint64_t switch_seq, bool forced, const char *branch)
{
    (void)forced;
    (void)epoch;
    (void)switch_seq;
    (void)branch;
    dmt_lease_lose_done(((struct fake *)ctx)->l, 0);
}

static void nothing(void *ctx)
{
    (void)ctx;
}

static void resync(void *ctx, uint64_t order)
{
    (void)ctx;
    (void)order;
}

static void drain(void *ctx)
{
    atomic_fetch_add(&((struct fake *)ctx)->drains, 1);
}

static uint64_t tail(void *ctx)
{
    (void)ctx;
    return 10;
}

static uint64_t no_sync(void *ctx)
{
    (void)ctx;
    return 0;
}

static void event(void *ctx, const char *kind, const char *text)
{
    (void)ctx;
    (void)kind;
    (void)text;
}

static void failed(void *ctx, const char *why)
{
    (void)why;
    atomic_fetch_add(&((struct fake *)ctx)->failed, 1);
}

static void may_stop(void *ctx)
{
    atomic_fetch_add(&((struct fake *)ctx)->may_stop, 1);
}

static const struct dmt_lease_ops ops = {gate_changed, open_epoch, promote, demote, follow,
                                         lose,         nothing,    nothing, resync, drain,
                                         tail,         no_sync,    event,   failed, may_stop};

static void fake_init(struct fake *f)
{
    memset(f, 0, sizeof(*f));
    (void)snprintf(f->dir, sizeof(f->dir), "/var/tmp/dumont-lease.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
}

static struct dmt_lease_conf conf_of(struct fake *f, const char *node, uint8_t store)
{
    struct dmt_lease_conf c = {.io = dmt_io_real(),
                               .clock = dmt_clock_real(),
                               .dir = f->dir,
                               .workspace = "w",
                               .node = node,
                               .store_id = {store},
                               .lineage = {7},
                               .tls_off = true,
                               .ops = &ops,
                               .ctx = f};
    return c;
}

static void fake_free(struct fake *f)
{
    char path[96];
    dmt_lease_free(f->l);
    f->l = NULL;
    (void)snprintf(path, sizeof(path), "%s/node.state", f->dir);
    (void)unlink(path);
    assert_int_equal(rmdir(f->dir), 0);
}

/* Polls a condition for up to ten seconds. */
#define AWAIT(cond)                                 \
    do {                                            \
        struct timespec ms_ = {.tv_nsec = 1000000}; \
        int left_ = 10000;                          \
        while (!(cond) && left_-- > 0)              \
            nanosleep(&ms_, NULL);                  \
        assert_true(cond);                          \
    } while (0)

static void a_lone_workspace_needs_nobody(void **state)
{
    (void)state;
    struct fake f;
    struct dmt_lease_status st;
    fake_init(&f);
    struct dmt_lease_conf c = conf_of(&f, "A", 1);
    assert_int_equal(dmt_lease_new(&f.l, &c, NULL), 0);
    assert_int_equal(dmt_lease_state(f.l), DMT_LEASE_HOLDER_ALONE);
    dmt_lease_status(f.l, &st);
    assert_true(st.holder); /* L4 opens the workspace by it, before the start */
    assert_int_equal(dmt_lease_plain(f.l), -EIO);
    assert_int_equal(dmt_lease_start(f.l, NULL), 0);
    AWAIT(dmt_lease_begin(f.l) == 0);
    assert_int_equal(atomic_load(&f.epoch), DMT_EPOCH(1, 1));
    assert_int_equal(dmt_lease_plain(f.l), 0);
    assert_int_equal(dmt_lease_sync(f.l, 1000), 0);
    assert_true(dmt_lease_stable(f.l) == UINT64_MAX);
    dmt_lease_free(f.l);
    f.l = NULL;
    /* The next life has the next minor epoch. */
    assert_int_equal(dmt_lease_new(&f.l, &c, NULL), 0);
    assert_int_equal(dmt_lease_start(f.l, NULL), 0);
    AWAIT(atomic_load(&f.epoch) == DMT_EPOCH(1, 2));
    fake_free(&f);
}

/* A store made from an archive holds records of higher epochs than a new one. */
static void a_restored_store_goes_on_above_its_epoch(void **state)
{
    (void)state;
    struct fake f;
    fake_init(&f);
    struct dmt_lease_conf c = conf_of(&f, "A", 1);
    c.store_epoch = DMT_EPOCH(3, 7);
    assert_int_equal(dmt_lease_new(&f.l, &c, NULL), 0);
    assert_int_equal(dmt_lease_start(f.l, NULL), 0);
    AWAIT(atomic_load(&f.epoch) == DMT_EPOCH(3, 8));
    dmt_lease_free(f.l);
    f.l = NULL;
    /* Once there is a record, it alone counts. */
    c.store_epoch = DMT_EPOCH(9, 0);
    assert_int_equal(dmt_lease_new(&f.l, &c, NULL), 0);
    assert_int_equal(dmt_lease_start(f.l, NULL), 0);
    AWAIT(atomic_load(&f.epoch) == DMT_EPOCH(3, 9));
    fake_free(&f);
}

static void an_epoch_that_cannot_be_opened_closes_the_gate_for_good(void **state)
{
    (void)state;
    struct fake f;
    fake_init(&f);
    atomic_store(&f.open_result, -ENOSPC);
    struct dmt_lease_conf c = conf_of(&f, "A", 1);
    assert_int_equal(dmt_lease_new(&f.l, &c, NULL), 0);
    assert_int_equal(dmt_lease_start(f.l, NULL), 0);
    AWAIT(atomic_load(&f.failed) == 1);
    AWAIT(dmt_lease_plain(f.l) == -EIO && dmt_lease_begin(f.l) == -EROFS);
    fake_free(&f);
}

static void what_cannot_work_is_refused_with_a_sentence(void **state)
{
    (void)state;
    struct fake f;
    struct dmt_err err;
    fake_init(&f);
    struct dmt_lease_conf c = conf_of(&f, "A", 1);
    c.peer_host = "127.0.0.1";
    assert_int_equal(dmt_lease_new(&f.l, &c, &err), DMT_E_CONFIG);
    assert_non_null(strstr(err.msg, "arbiter"));
    c = conf_of(&f, "A", 1);
    c.solo_after_ms = 1000;
    assert_int_equal(dmt_lease_new(&f.l, &c, &err), DMT_E_CONFIG);
    c = conf_of(&f, "A", 1);
    assert_int_equal(dmt_lease_new(&f.l, &c, &err), 0);
    dmt_lease_free(f.l);
    f.l = NULL;
    c.node = "B"; /* the store was carried to another machine */
    assert_int_equal(dmt_lease_new(&f.l, &c, &err), DMT_E_CONFIG);
    c = conf_of(&f, "A", 2); /* or the record to another store */
    assert_int_equal(dmt_lease_new(&f.l, &c, &err), DMT_E_CONFIG);
    fake_free(&f);
}

static void write_record(struct fake *f, const struct lease_record *r)
{
    char path[96];
    struct dmt_buf b;
    dmt_buf_init(&b);
    (void)snprintf(path, sizeof(path), "%s/node.state", f->dir);
    assert_int_equal(lease_record_encode(r, &b), 0);
    assert_int_equal(dmt_io_write_file(dmt_io_real(), path, b.p, b.len, 0600), 0);
    dmt_buf_free(&b);
}

static int listen_any(uint16_t *port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
    *port = ntohs(sa.sin_port);
    return fd;
}

/* Plays the replica's listener: the preamble tells a ping channel. */
static void accept_ping(int fd, struct dmt_lease *l)
{
    char preamble[DMT_LEASE_PREAMBLE_LEN];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 5000), 1);
    int c = accept(fd, NULL, NULL);
    assert_true(c >= 0);
    assert_int_equal(recv(c, preamble, sizeof(preamble), MSG_WAITALL), sizeof(preamble));
    assert_memory_equal(preamble, DMT_LEASE_PREAMBLE, DMT_LEASE_PREAMBLE_LEN);
    dmt_lease_accept_ping(l, NULL, c);
}

/* A holds, B follows; their lease runs over a real channel. Ends with B frozen out: the gate closes
 * by the clock alone. */
static void the_lease_runs_over_the_ping_channel_and_ends_without_it(void **state)
{
    (void)state;
    static const uint8_t b_store[16] = {2}, other_store[16] = {3};
    struct fake a, b;
    struct lease_record ra = a_paired_record(), rb = a_record();
    uint16_t port;
    fake_init(&a);
    fake_init(&b);
    ra.lineage.id[0] = rb.lineage.id[0] = 7;
    rb.self = an_id("B", 2);
    rb.seen = DMT_EPOCH(5, 0);
    write_record(&a, &ra);
    write_record(&b, &rb);
    int fd = listen_any(&port);
    struct dmt_lease_conf ca = conf_of(&a, "A", 1), cb = conf_of(&b, "B", 2);
    assert_int_equal(dmt_lease_new(&a.l, &ca, NULL), 0);
    assert_int_equal(dmt_lease_state(a.l), DMT_LEASE_START);
    assert_int_equal(dmt_lease_new(&b.l, &cb, NULL), 0);
    assert_int_equal(dmt_lease_start(b.l, NULL), 0);
    assert_int_equal(dmt_lease_start(a.l, NULL), 0);
    dmt_lease_dial(a.l, "127.0.0.1", port);
    accept_ping(fd, b.l);
    AWAIT(atomic_load(&b.demoted) == 1);
    AWAIT(dmt_lease_begin(a.l) == 1); /* waits for the peer */
    atomic_store(&a.early, true);
    dmt_lease_peer_up(a.l, "B", b_store, DMT_EPOCH(5, 0), 10, false);
    AWAIT(atomic_load(&a.epoch) == DMT_EPOCH(5, 1));
    AWAIT(dmt_lease_plain(a.l) == 0);
    assert_true(dmt_lease_dual(a.l));
    /* One of this epoch counts also if it came before the gate: there may be no other. */
    assert_int_equal(dmt_lease_sync(a.l, 3), 0);
    /* R3: only an acknowledgement of this epoch from the named store counts. */
    assert_int_equal(dmt_lease_sync(a.l, 5), 1);
    dmt_lease_peer_acked(a.l, b_store, DMT_EPOCH(5, 0), 9, 9);
    assert_int_equal(dmt_lease_sync(a.l, 5), 1);
    dmt_lease_peer_acked(a.l, other_store, DMT_EPOCH(5, 1), 9, 9);
    assert_int_equal(dmt_lease_sync(a.l, 5), 1);
    unsigned gates = atomic_load(&a.gates);
    dmt_lease_peer_acked(a.l, b_store, DMT_EPOCH(5, 1), 9, 9);
    assert_true(atomic_load(&a.gates) > gates); /* who waited is woken */
    assert_int_equal(dmt_lease_sync(a.l, 5), 0);
    assert_int_equal(dmt_lease_sync(a.l, 10), 1);
    /* Still running long after the first promise. */
    struct timespec s = {.tv_sec = 1};
    nanosleep(&s, NULL);
    assert_int_equal(dmt_lease_plain(a.l), 0);
    dmt_lease_stop(b.l);
    AWAIT(dmt_lease_plain(a.l) == 1);
    assert_int_equal(dmt_lease_sync(a.l, 5), 1);
    /* A higher epoch anywhere: closed for good. */
    dmt_lease_higher_epoch(a.l, DMT_EPOCH(6, 0));
    AWAIT(dmt_lease_plain(a.l) == -EIO && dmt_lease_begin(a.l) == -EROFS);
    assert_int_equal(dmt_lease_state(a.l), DMT_LEASE_LOSER);
    AWAIT(atomic_load(&a.demoted) == 1);
    close(fd);
    fake_free(&a);
    fake_free(&b);
}

static void an_orderly_stop_is_told_to_the_other_side(void **state)
{
    (void)state;
    struct fake a, b;
    struct lease_record rb = a_record();
    uint16_t port;
    fake_init(&a);
    fake_init(&b);
    rb.self = an_id("B", 2);
    rb.lineage.id[0] = 7;
    write_record(&b, &rb);
    int fd = listen_any(&port);
    struct dmt_lease_conf ca = conf_of(&a, "A", 1), cb = conf_of(&b, "B", 2);
    assert_int_equal(dmt_lease_new(&a.l, &ca, NULL), 0);
    assert_int_equal(dmt_lease_new(&b.l, &cb, NULL), 0);
    assert_int_equal(dmt_lease_start(a.l, NULL), 0);
    assert_int_equal(dmt_lease_start(b.l, NULL), 0);
    dmt_lease_dial(b.l, "127.0.0.1", port);
    accept_ping(fd, a.l);
    struct dmt_lease_status st;
    AWAIT((dmt_lease_status(b.l, &st), st.ping_up) && (dmt_lease_status(a.l, &st), st.ping_up));
    dmt_lease_stop_begin(b.l); /* the standby; the holder is alone, so it may go at once */
    AWAIT(atomic_load(&b.may_stop) == 1);
    dmt_lease_stop_begin(a.l);
    AWAIT(atomic_load(&a.may_stop) == 1);
    close(fd);
    fake_free(&a);
    fake_free(&b);
}

/* The vector of docs/formats-lease.md: preamble and HELLO; the instance is random. */
static const char vector_hello[] =
    "444d5450494e47313d00000100000005000000747261696e0001020304050607"
    "08090a0b0c0d0e0f03000000677075a0a1a2a3a4a5a6a7a8a9aaabacadaeaf88"
    "77665544332211";

static void bytes_of_a_hello(void **state)
{
    (void)state;
    struct fake f;
    uint16_t port;
    uint8_t got[71];
    char hex[2 * sizeof(got) + 1];
    fake_init(&f);
    int fd = listen_any(&port);
    struct dmt_lease_conf c = conf_of(&f, "gpu", 0);
    c.workspace = "train";
    for (uint8_t i = 0; i < 16; i++) {
        c.lineage[i] = i;
        c.store_id[i] = (uint8_t)(0xa0 + i);
    }
    assert_int_equal(dmt_lease_new(&f.l, &c, NULL), 0);
    assert_int_equal(dmt_lease_start(f.l, NULL), 0);
    dmt_lease_dial(f.l, "127.0.0.1", port);
    int conn = accept(fd, NULL, NULL);
    assert_true(conn >= 0);
    assert_int_equal(recv(conn, got, sizeof(got), MSG_WAITALL), sizeof(got));
    memcpy(got + 63, (uint8_t[]){0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11}, 8);
    dmt_hex(got, sizeof(got), hex);
    assert_string_equal(hex, vector_hello);
    close(conn);
    close(fd);
    dmt_lease_stop(f.l);
    fake_free(&f);
}

static void send_frame(int fd, const struct dmt_buf *b)
{
    uint8_t len[2] = {(uint8_t)b->len, (uint8_t)(b->len >> 8)};
    assert_int_equal(send(fd, len, 2, 0), 2);
    assert_int_equal(send(fd, b->p, b->len, 0), b->len);
}

/* Takes what comes until the other end closes; none of it may be said in an epoch of `from` on. */
static void nothing_of(int fd, uint64_t from)
{
    struct dmt_buf in;
    struct lease_msg m;
    uint8_t chunk[512];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ssize_t n = 1;
    dmt_buf_init(&in);
    while (n > 0) {
        assert_int_equal(poll(&p, 1, 10000), 1);
        n = recv(fd, chunk, sizeof(chunk), 0);
        if (n > 0)
            dmt_put_raw(&in, chunk, (size_t)n);
    }
    for (size_t at = 0; at + 2 < in.len; at += 2u + dmt_le16(in.p + at))
        if (lease_msg_decode(in.p + at + 2, dmt_le16(in.p + at), &m) == 0)
            assert_true(m.epoch < from);
    dmt_buf_free(&in);
}

/* A force begins another lineage while the channel of the old one is open: the other machine, which
 * may wake up at its other end, is no peer of it. */
static void a_channel_of_the_lineage_before_is_closed(void **state)
{
    (void)state;
    struct fake b;
    struct lease_record rb = a_record();
    struct dmt_lease_status st;
    struct dmt_buf hello;
    int sv[2];
    fake_init(&b);
    rb.self = an_id("B", 2);
    rb.lineage.id[0] = 7;
    rb.seen = DMT_EPOCH(5, 0);
    write_record(&b, &rb);
    struct dmt_lease_conf cb = conf_of(&b, "B", 2);
    assert_int_equal(dmt_lease_new(&b.l, &cb, NULL), 0);
    assert_int_equal(dmt_lease_start(b.l, NULL), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    dmt_lease_accept_ping(b.l, NULL, sv[1]);
    dmt_buf_init(&hello);
    dmt_put_u8(&hello, 0);
    dmt_put_u32(&hello, 1);
    dmt_put_str(&hello, "w");
    dmt_put_raw(&hello, rb.lineage.id, 16);
    dmt_put_str(&hello, "A");
    dmt_put_raw(&hello, (const uint8_t[16]){1}, 16);
    dmt_put_u64(&hello, 9);
    send_frame(sv[0], &hello);
    dmt_buf_free(&hello);
    AWAIT((dmt_lease_status(b.l, &st), st.ping_up));
    assert_int_equal(dmt_lease_command(b.l, DMT_LEASE_CMD_FORCE, NULL), 0);
    AWAIT((dmt_lease_status(b.l, &st), st.holder));
    nothing_of(sv[0], DMT_EPOCH(DMT_LINEAGE_STEP, 0));
    close(sv[0]);
    dmt_lease_stop(b.l);
    fake_free(&b);
}

/* A new standby that has received nothing: there is no workspace here to go on with. */
static void an_empty_copy_is_not_forced(void **state)
{
    (void)state;
    struct fake b;
    struct dmt_err err = {0};
    struct lease_record rb = a_record();
    fake_init(&b);
    rb.self = an_id("B", 2);
    write_record(&b, &rb);
    struct dmt_lease_conf cb = conf_of(&b, "B", 2);
    memset(cb.lineage, 0, sizeof(cb.lineage));
    assert_int_equal(dmt_lease_new(&b.l, &cb, NULL), 0);
    assert_int_equal(dmt_lease_start(b.l, NULL), 0);
    AWAIT(atomic_load(&b.demoted) == 1);
    assert_true(dmt_lease_command(b.l, DMT_LEASE_CMD_FORCE, &err) < 0);
    assert_non_null(strstr(err.msg, "nothing of the workspace"));
    dmt_lease_stop(b.l);
    fake_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_of_a_hello),
        cmocka_unit_test(a_lone_workspace_needs_nobody),
        cmocka_unit_test(a_restored_store_goes_on_above_its_epoch),
        cmocka_unit_test(an_epoch_that_cannot_be_opened_closes_the_gate_for_good),
        cmocka_unit_test(what_cannot_work_is_refused_with_a_sentence),
        cmocka_unit_test(the_lease_runs_over_the_ping_channel_and_ends_without_it),
        cmocka_unit_test(an_orderly_stop_is_told_to_the_other_side),
        cmocka_unit_test(a_channel_of_the_lineage_before_is_closed),
        cmocka_unit_test(an_empty_copy_is_not_forced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
