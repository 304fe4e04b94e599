/* pair.h: two machines in one process, for the tests of fs/replica: real stores, journals and workspaces in a scratch directory,
 * real TCP on loopback, mutual TLS (or none), and a small stand-in for dumontfs.c that answers the replica's questions by a
 * policy that each test sets.
 *
 * Everything a test waits for is a condition (WAIT_FOR), looked at whenever an op is called, at the latest every 5 ms; 30 s are a
 * failure. The relay between the two cuts connections after a number of bytes and limits the rate. */
#ifndef DMT_TESTS_REPLICA_PAIR_H
#define DMT_TESTS_REPLICA_PAIR_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "fs/base/log.h"
#include "fs/replica/replica.h"
#include "fs/replica/wire.h"

#define EPOCH(major, minor) ((uint64_t)(major) << 32 | (minor))
#define WS_NAME "train"

struct node {
    const char *name;
    char dir[96], store[128];
    struct dmt_store_ident ident;
    struct dmt_tls_ctx *tls;
    struct dmt_loop *loop;
    struct dmt_pool *pool, *chief; /* chief: the thread that does what dumontfs.c does */
    struct dmt_io io;              /* real, but for a fdatasync that can be held */
    struct dmt_ws *ws;             /* of the test's own thread and of chores */
    _Atomic(struct dmt_replica *) r;
    _Atomic(struct dmt_ws *) live; /* ws for ops */
    atomic_bool dual;              /* syncs need the peer */
    atomic_uint_fast64_t stable;
    atomic_bool hold_sync, hold_data; /* all fdatasync; those of data files */
    /* policy */
    atomic_bool refuse_follow, order, spoil; /* spoil: data files are damaged before the new state is opened */
    /* what was told */
    atomic_bool up, ahead, fetch_ended, known;
    atomic_int fetch_err, ping_fd;
    atomic_uint ups, downs, acks, pairs, resyncs, needed, imports, follows, cuts;
    atomic_uint_fast64_t acked_epoch, acked_durable, acked_whole, higher, following_epoch, following_seq, pair_seq, cut_seq;
    pthread_mutex_t lock; /* the rest */
    uint8_t acked_store[16];
    char failed[256], last_event[512], down_why[256];
    struct dmt_tls *ping_tls;
};

struct relay {
    pthread_t thread;
    int listener, target_port;
    uint16_t port;
    atomic_bool stop, refuse;
    atomic_long cut_after; /* bytes from the dialling side and back; < 0: never */
    atomic_long rate;      /* bytes a second and direction; 0: no limit */
    atomic_uint cuts;
};

struct pair {
    char dir[64];
    struct node a, b;
    struct relay relay;
};

static pthread_mutex_t any_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t any_cond = PTHREAD_COND_INITIALIZER;

static inline void something_happened(void)
{
    pthread_mutex_lock(&any_lock);
    pthread_cond_broadcast(&any_cond);
    pthread_mutex_unlock(&any_lock);
}

static inline void wait_a_little(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_nsec += 5000000;
    if (ts.tv_nsec >= 1000000000) {
        ts.tv_sec++;
        ts.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&any_lock);
    pthread_cond_timedwait(&any_cond, &any_lock, &ts);
    pthread_mutex_unlock(&any_lock);
}

static inline uint64_t test_ms(void)
{
    return dmt_clock_real()->monotonic_ns(NULL) / DMT_MS;
}

static inline void say_nodes(struct pair *p);
static struct pair *current; /* for the report of a condition that does not come */

#define WAIT_FOR(cond)                                                                                                 \
    do {                                                                                                               \
        uint64_t until_ms = test_ms() + 30000;                                                                         \
        while (!(cond)) {                                                                                              \
            if (test_ms() > until_ms) {                                                                                \
                say_nodes(current);                                                                                    \
                fail_msg("%s:%d: never came: %s", __FILE__, __LINE__, #cond);                                          \
            }                                                                                                          \
            wait_a_little();                                                                                           \
        }                                                                                                              \
    } while (0)

/* What a node was told in words contains text ("" = nothing was said). */
static inline bool said(struct node *n, const char *where, const char *text)
{
    pthread_mutex_lock(&n->lock);
    bool yes = text[0] ? strstr(where, text) != NULL : where[0] == '\0';
    pthread_mutex_unlock(&n->lock);
    return yes;
}

static inline void check(int rc, const struct dmt_err *err)
{
    if (rc < 0)
        fail_msg("%d: %s", rc, err && err->msg[0] ? err->msg : dmt_strerror(rc));
}

static inline void shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline void shell(const char *fmt, ...)
{
    char cmd[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(cmd, sizeof(cmd), fmt, ap);
    va_end(ap);
    assert_int_equal(system(cmd), 0);
}

/* --- gate ----------------------------------------------------------------------------------------------------------- */

static inline int g_plain(void *ctx)
{
    (void)ctx;
    return 0;
}
static inline int g_sync(void *ctx, uint64_t seq, uint64_t ino, uint64_t ref_seq)
{
    struct node *n = ctx;
    if (!n->dual)
        return 0;
    struct dmt_replica *r = n->r;
    uint8_t id[16];
    if (!r || !atomic_load(&n->known))
        return 1;
    pthread_mutex_lock(&n->lock);
    memcpy(id, n->acked_store, 16);
    pthread_mutex_unlock(&n->lock);
    bool have = ref_seq == 0 || dmt_replica_have(r, ino, ref_seq);
    return have && dmt_replica_peer_durable(r, id) >= seq ? 0 : 1;
}
static inline void g_appended(void *ctx, uint64_t tail_seq, uint64_t bytes)
{
    struct node *n = ctx;
    struct dmt_replica *r = n->r;
    if (r)
        dmt_replica_appended(r, tail_seq, bytes);
}
static inline void g_wanted(void *ctx, uint64_t seq)
{
    struct node *n = ctx;
    if (n->r)
        dmt_replica_need(n->r, seq);
}
static inline uint64_t g_stable(void *ctx)
{
    return atomic_load(&((struct node *)ctx)->stable);
}
static inline uint64_t g_free(void *ctx)
{
    (void)ctx;
    return UINT64_MAX;
}

/* --- ops: what dumontfs.c would do -------------------------------------------------------------------------------------- */

#define TELL(n, ...)                                                                                                   \
    do {                                                                                                               \
        pthread_mutex_lock(&(n)->lock);                                                                                \
        __VA_ARGS__;                                                                                                   \
        pthread_mutex_unlock(&(n)->lock);                                                                              \
        something_happened();                                                                                          \
    } while (0)

struct chore {
    struct node *n;
    uint64_t epoch, seq;
};

static inline void chore(struct node *n, void (*fn)(void *), uint64_t epoch, uint64_t seq)
{
    struct chore *c = malloc(sizeof(*c));
    assert_non_null(c);
    *c = (struct chore){n, epoch, seq};
    assert_int_equal(dmt_pool_submit(n->chief, fn, c), 0);
}

static inline void node_open(struct node *n, bool follower);

static inline void o_up(void *ctx, const struct dmt_replica_peer *p)
{
    struct node *n = ctx;
    TELL(n, n->ahead = p->ahead; n->ups++; n->up = true);
}
static inline void o_down(void *ctx, const char *why)
{
    struct node *n = ctx;
    TELL(n, n->up = false; n->downs++; (void)snprintf(n->down_why, sizeof(n->down_why), "%s", why));
}
static inline void o_acked(void *ctx, const uint8_t id[16], uint64_t epoch, uint64_t durable, uint64_t whole)
{
    struct node *n = ctx;
    TELL(n, memcpy(n->acked_store, id, 16); n->acked_epoch = epoch; n->acked_durable = durable; n->acked_whole = whole;
         n->known = true; n->acks++);
}
static inline void o_pair(void *ctx, const uint8_t id[16], uint64_t epoch, uint64_t seq)
{
    struct node *n = ctx;
    (void)id, (void)epoch;
    TELL(n, n->pair_seq = seq; n->pairs++);
}
static inline void o_changed(void *ctx)
{
    struct node *n = ctx;
    struct dmt_ws *ws = atomic_load(&n->live);
    if (ws)
        dmt_ws_poke(ws);
    something_happened();
}
static inline void do_cut(void *arg)
{
    struct chore *c = arg;
    struct node *n = c->n;
    struct dmt_err err = {0};
    int rc = dmt_ws_branch_and_cut(n->ws, c->seq, "epoch-1.0-gpu", &err);
    TELL(n, n->cut_seq = c->seq; n->cuts++);
    if (rc == 0)
        dmt_replica_follow(n->r, c->epoch);
    else
        dmt_replica_ask_resync(n->r, err.msg);
    free(c);
}
static inline void o_peer_epoch(void *ctx, const struct dmt_replica_peer *p, uint64_t epoch, bool alone,
                                uint64_t switch_seq, uint64_t tail_seq)
{
    struct node *n = ctx;
    (void)p, (void)alone;
    if (atomic_load(&n->refuse_follow))
        return;
    if (switch_seq < tail_seq)
        chore(n, do_cut, epoch, switch_seq);
    else
        dmt_replica_follow(n->r, epoch);
}
static inline void o_following(void *ctx, uint64_t epoch, uint64_t seq)
{
    struct node *n = ctx;
    TELL(n, n->following_epoch = epoch; n->following_seq = seq; n->follows++);
}
static inline void o_higher(void *ctx, uint64_t epoch)
{
    struct node *n = ctx;
    TELL(n, n->higher = epoch > n->higher ? epoch : n->higher);
}
static inline void o_needed(void *ctx, const char *why)
{
    struct node *n = ctx;
    (void)why;
    TELL(n, n->needed++);
    if (atomic_load(&n->order))
        dmt_replica_order_resync(n->r);
}
static inline void node_close(struct node *n);
static inline void do_resync(void *arg)
{
    struct chore *c = arg;
    struct node *n = c->n;
    struct dmt_err err = {0};
    if (c->seq > 0)
        check(dmt_ws_apply_upto(n->ws, c->seq, &err), &err);
    node_close(n);
    struct dmt_store_conf sc = {.io = &n->io, .clock = dmt_clock_real(), .dir = n->store};
    dmt_replica_resync(n->r, &sc, &n->ident);
    free(c);
}
static inline void o_ordered(void *ctx, const struct dmt_replica_peer *peer, uint64_t epoch, bool alone, uint64_t common)
{
    struct node *n = ctx;
    (void)peer;
    assert_true(alone);
    TELL(n, n->resyncs++);
    chore(n, do_resync, epoch, common);
}
static inline void do_open(void *arg)
{
    struct chore *c = arg;
    struct dmt_err err = {0};
    struct dmt_store_conf sc = {.io = &c->n->io, .clock = dmt_clock_real(), .dir = c->n->store};
    shell("rm -rf %s/journal", c->n->store);
    check(dmt_patch_switch(&sc, &err), &err);
    if (atomic_exchange(&c->n->spoil, false))
        shell("for f in $(find %s/data -type f -size +100k); do"
              " dd if=/dev/zero of=$f bs=1M count=9 conv=notrunc 2>/dev/null; done", c->n->store);
    node_open(c->n, true);
    dmt_replica_set_ws(c->n->r, c->n->ws);
    TELL(c->n, c->n->imports++);
    free(c);
}
static inline void o_imported(void *ctx, int err, const struct dmt_pos *pos, const uint8_t lineage[16], const char *why)
{
    struct node *n = ctx;
    TELL(n, if (err < 0) (void)snprintf(n->failed, sizeof(n->failed), "import: %s", why));
    memcpy(n->ident.lineage, lineage, 16);
    if (err == 0)
        chore(n, do_open, 0, pos->seq);
}
static inline void o_fetched(void *ctx, int err)
{
    struct node *n = ctx;
    TELL(n, n->fetch_err = err; n->fetch_ended = true);
}
static inline void o_ping(void *ctx, struct dmt_tls *tls, int fd)
{
    struct node *n = ctx;
    TELL(n, n->ping_tls = tls; n->ping_fd = fd); /* the descriptor last: it is what the test waits for */
}
static inline void o_failed(void *ctx, const char *why)
{
    struct node *n = ctx;
    TELL(n, (void)snprintf(n->failed, sizeof(n->failed), "%s", why));
}
static inline void o_event(void *ctx, const char *kind, const char *text)
{
    struct node *n = ctx;
    TELL(n, (void)snprintf(n->last_event, sizeof(n->last_event), "%s: %s", kind, text));
    if (getenv("REPLICA_TEST_TALK"))
        fprintf(stderr, "  [%s] %s: %s\n", n->name, kind, text);
}

static const struct dmt_replica_ops pair_ops = {
    .peer_up = o_up, .peer_down = o_down, .peer_acked = o_acked, .pair_ready = o_pair, .changed = o_changed,
    .peer_epoch = o_peer_epoch, .following = o_following, .higher_epoch = o_higher, .resync_needed = o_needed,
    .resync_ordered = o_ordered, .resync_imported = o_imported, .fetched = o_fetched, .ping_accepted = o_ping,
    .failed = o_failed, .event = o_event,
};

/* --- one machine ------------------------------------------------------------------------------------------------------------ */

static inline int held_fdatasync(void *ctx, int fd)
{
    struct node *n = ctx;
    char link[64], path[256] = "";
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof(path) - 1) < 0)
        path[0] = '\0';
    bool data = strstr(path, "/data/") != NULL;
    while (atomic_load(&n->hold_sync) || (data && atomic_load(&n->hold_data)))
        usleep(1000);
    const struct dmt_io *real = dmt_io_real();
    return real->fdatasync(real->ctx, fd);
}

/* The other methods do not look at ctx in the real twin, so that only this one has to be replaced. */
static inline void node_io(struct node *n)
{
    n->io = *dmt_io_real();
    assert_null(n->io.ctx);
    n->io.ctx = n;
    n->io.fdatasync = held_fdatasync;
}

static inline void ws_failed(void *ctx, const char *why)
{
    struct node *n = ctx;
    TELL(n, (void)snprintf(n->failed, sizeof(n->failed), "workspace: %s", why));
}

static inline void node_open(struct node *n, bool follower)
{
    struct dmt_err err = {0};
    struct dmt_gate gate = {.ctx = n, .plain = g_plain, .begin = g_plain, .sync = g_sync, .appended = g_appended,
                            .wanted = g_wanted, .stable = g_stable, .peer_free = g_free};
    struct dmt_ws_conf conf = {.io = &n->io, .clock = dmt_clock_real(), .dir = n->store, .gate = &gate, .pool = n->pool,
                               .level = DMT_SYNC_FSYNC, .segment_bytes = 1u << 20, .follower = follower,
                               .failed = ws_failed, .ctx = n};
    check(dmt_ws_open(&n->ws, &conf, &err), &err);
    atomic_store(&n->live, n->ws);
}

static inline void node_close(struct node *n)
{
    struct dmt_err err = {0};
    if (!n->ws)
        return;
    if (n->r)
        dmt_replica_set_ws(n->r, NULL);
    atomic_store(&n->live, NULL);
    check(dmt_ws_close(n->ws, &err), &err);
    n->ws = NULL;
}

static inline void node_create(struct node *n)
{
    struct dmt_err err = {0};
    struct dmt_store_conf sc = {.io = &n->io, .clock = dmt_clock_real(), .dir = n->store};
    check(dmt_store_create(&sc, &n->ident, S_IFDIR | 0755, 0, 0, 1000, &err), &err);
}

static inline void node_init(struct pair *p, struct node *n, const char *name, uint8_t id)
{
    n->name = name;
    n->ping_fd = -1;
    (void)snprintf(n->dir, sizeof(n->dir), "%s/%s", p->dir, name);
    (void)snprintf(n->store, sizeof(n->store), "%s/store", n->dir);
    shell("mkdir -p %s", n->store);
    pthread_mutex_init(&n->lock, NULL);
    memset(n->ident.store_id, id, 16);
    memset(n->ident.lineage, 7, 16);
    strcpy(n->ident.name, WS_NAME);
    atomic_store(&n->stable, UINT64_MAX);
    atomic_store(&n->order, true);
    node_io(n);
    assert_int_equal(dmt_pool_new(&n->pool, "pool", 2, 64), 0);
    assert_int_equal(dmt_pool_new(&n->chief, "chief", 1, 64), 0);
    assert_int_equal(dmt_loop_new(&n->loop), 0);
}

/* Own certificate of the CA in ca_dir. */
static inline void node_tls(struct node *n, const char *ca_dir)
{
    struct dmt_err err = {0};
    char ca[128], ca_key[128], cert[160], key[160];
    (void)snprintf(ca, sizeof(ca), "%s/ca.pem", ca_dir);
    (void)snprintf(ca_key, sizeof(ca_key), "%s/ca.key", ca_dir);
    (void)snprintf(cert, sizeof(cert), "%s/node.pem", n->dir);
    (void)snprintf(key, sizeof(key), "%s/node.key", n->dir);
    if (access(ca, F_OK) != 0)
        check(dmt_ca_create(ca, ca_key, "test ca", 2, &err), &err);
    check(dmt_ca_issue(ca, ca_key, n->name, 2, cert, key, &err), &err);
    check(dmt_tls_ctx_new(&n->tls, ca, cert, key, &err), &err);
}

static inline struct dmt_replica_conf node_conf(struct node *n)
{
    struct dmt_replica_conf c = {.clock = dmt_clock_real(), .io = dmt_io_real(), .loop = n->loop, .workspace = WS_NAME,
                                 .node = n->name, .tls = n->tls, .tls_off = n->tls == NULL, .backoff_max_ms = 200,
                                 .ops = &pair_ops, .ctx = n};
    memcpy(c.store_id, n->ident.store_id, 16);
    memcpy(c.lineage.id, n->ident.lineage, 16);
    return c;
}

static inline void node_listen(struct node *n)
{
    struct dmt_err err = {0};
    struct dmt_replica_conf c = node_conf(n);
    c.listen_host = "127.0.0.1";
    struct dmt_replica *r;
    check(dmt_replica_start(&r, &c, &err), &err);
    n->r = r;
    dmt_replica_set_ws(n->r, n->ws);
}

static inline void node_dial(struct node *n, uint16_t port)
{
    struct dmt_err err = {0};
    struct dmt_replica_conf c = node_conf(n);
    c.dial_host = "127.0.0.1";
    c.dial_port = port;
    struct dmt_replica *r;
    check(dmt_replica_start(&r, &c, &err), &err);
    n->r = r;
    dmt_replica_set_ws(n->r, n->ws);
}

static inline void node_begin(struct node *n, uint64_t epoch, bool alone)
{
    struct dmt_err err = {0};
    check(dmt_ws_begin_epoch(n->ws, epoch, n->name, "test", &err), &err);
    if (n->r)
        dmt_replica_set_role(n->r, DMT_REPLICA_SENDER, epoch, alone, epoch);
}

static inline void node_receive(struct node *n, uint64_t seen)
{
    dmt_replica_set_role(n->r, DMT_REPLICA_RECEIVER, 0, false, seen);
}

static inline void node_hang_up(struct node *n)
{
    struct dmt_replica *r = n->r;
    n->r = NULL;
    dmt_replica_stop(r);
}

static inline void node_free(struct node *n)
{
    if (!n->name)
        return;
    atomic_store(&n->hold_sync, false);
    atomic_store(&n->hold_data, false);
    if (n->r)
        node_hang_up(n);
    dmt_pool_free(n->chief);
    node_close(n);
    dmt_pool_free(n->pool);
    dmt_loop_free(n->loop);
    dmt_tls_ctx_free(n->tls);
    if (n->ping_tls)
        dmt_tls_free(n->ping_tls);
    if (n->ping_fd >= 0)
        close(n->ping_fd);
    pthread_mutex_destroy(&n->lock);
}

static inline uint64_t tail_of(const struct node *n)
{
    return dmt_journal_tail(dmt_ws_journal(n->ws)).seq;
}

/* All of a is on b: durable, applied, no range missing, and acknowledged. */
static inline bool same_place(struct node *a, struct node *b)
{
    struct dmt_ws *ws = atomic_load(&b->live);
    struct dmt_replica_status s;
    if (!ws)
        return false;
    uint64_t tail = tail_of(a);
    struct dmt_missing m;
    dmt_replica_status(a->r, &s);
    return dmt_journal_tail(dmt_ws_journal(ws)).seq == tail && dmt_ws_applied(ws) == tail &&
           dmt_ws_missing_next(ws, 0, 0, &m) == 0 && s.durable == tail;
}

static inline void assert_equal_trees(struct node *a, struct node *b)
{
    char x[65], y[65];
    struct dmt_err err = {0};
    check(dmt_ws_digest(a->ws, DMT_LIVE, x, &err), &err);
    check(dmt_ws_digest(b->ws, DMT_LIVE, y, &err), &err);
    assert_string_equal(x, y);
}

static inline void say_node(struct node *n)
{
    struct dmt_replica_status s = {0};
    if (n->r)
        dmt_replica_status(n->r, &s);
    print_message("%s: role %d epoch %llx connected %d streaming %d received %llu durable %llu "
                  "applied %llu whole %llu sent %llu missing "
                  "%llu; follows %u cuts %u resyncs %u imports %u needed %u; event '%s' down '%s' failed '%s' error '%s'\n",
                  n->name, s.role, (unsigned long long)s.epoch, s.connected, s.streaming, (unsigned long long)s.received,
                  (unsigned long long)s.durable, (unsigned long long)s.applied, (unsigned long long)s.whole,
                  (unsigned long long)s.sent, (unsigned long long)s.missing_bytes, n->follows, n->cuts, n->resyncs,
                  n->imports, n->needed, n->last_event, n->down_why, n->failed, s.last_error);
    if (n->ws)
        print_message("   tail %llu durable %llu applied %llu\n", (unsigned long long)tail_of(n),
                      (unsigned long long)dmt_journal_durable(dmt_ws_journal(n->ws)),
                      (unsigned long long)dmt_ws_applied(n->ws));
}

static inline void say_nodes(struct pair *p)
{
    if (!p)
        return;
    say_node(&p->a);
    say_node(&p->b);
}

/* --- operations ------------------------------------------------------------------------------------------------------------- */

static inline uint64_t make_file(struct node *n, const char *name)
{
    struct dmt_op op = {.umask = 022};
    struct dmt_attr at;
    assert_int_equal(dmt_ws_make(n->ws, &op, DMT_ROOT, name, S_IFREG | 0644, 0, NULL, &at), 0);
    return at.node;
}

static inline void write_at(struct node *n, uint64_t ino, const void *p, size_t len, uint64_t off)
{
    struct dmt_op op = {.umask = 022};
    assert_int_equal(dmt_ws_write(n->ws, &op, ino, p, len, off, false), 0);
}

static inline void write_text(struct node *n, const char *name, const char *text)
{
    write_at(n, make_file(n, name), text, strlen(text), 0);
}

/* len bytes from off on, in calls of 128 KiB: enough of them go by reference. */
static inline void write_bulk(struct node *n, uint64_t ino, uint64_t off, uint64_t len, uint32_t seed)
{
    static const size_t step = 128u << 10;
    uint8_t *p = malloc(step);
    assert_non_null(p);
    for (uint64_t at = 0; at < len; at += step) {
        uint64_t x = (off + at + 1) * 0x9e3779b97f4a7c15ull + seed;
        for (size_t i = 0; i < step; i += 8) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            memcpy(p + i, &x, 8);
        }
        write_at(n, ino, p, len - at < step ? len - at : step, off + at);
    }
    free(p);
}

/* --- relay ------------------------------------------------------------------------------------------------------------------ */

static inline int relay_connect(int port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&in, sizeof(in)) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static inline void reset_close(int fd)
{
    struct linger lg = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &lg, sizeof(lg));
    close(fd);
}

/* One connection until it ends, is cut, or the relay stops. */
static inline void relay_one(struct relay *y, int up)
{
    int down = relay_connect(y->target_port);
    if (down < 0) {
        reset_close(up);
        return;
    }
    int one = 1, small = 32 << 10;
    int fd[2] = {up, down};
    uint64_t moved[2] = {0, 0}, begun = test_ms();
    for (int i = 0; i < 2; i++) {
        setsockopt(fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        if (atomic_load(&y->rate) > 0)
            setsockopt(fd[i], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    }
    for (bool open = true; open && !atomic_load(&y->stop);) {
        struct pollfd pf[2];
        long rate = atomic_load(&y->rate);
        for (int i = 0; i < 2; i++) {
            bool slow = rate > 0 && moved[i] > (uint64_t)rate * (test_ms() - begun) / 1000 + 16384;
            pf[i] = (struct pollfd){fd[i], (short)(slow ? 0 : POLLIN), 0};
        }
        if (poll(pf, 2, 2) <= 0)
            continue;
        for (int i = 0; i < 2 && open; i++) {
            if (!(pf[i].revents & (POLLIN | POLLHUP | POLLERR)))
                continue;
            char buf[16384];
            long left = atomic_load(&y->cut_after);
            size_t most = left >= 0 && left < (long)sizeof(buf) ? (size_t)(left ? left : 1) : sizeof(buf);
            ssize_t n = pf[i].events ? recv(fd[i], buf, most, 0) : 0;
            if (!pf[i].events && !(pf[i].revents & POLLERR))
                continue;
            open = n > 0;
            for (ssize_t at = 0; open && at < n;) {
                ssize_t w = send(fd[!i], buf + at, (size_t)(n - at), MSG_NOSIGNAL);
                open = w > 0;
                at += w;
            }
            moved[i] += n > 0 ? (uint64_t)n : 0;
            if (left >= 0 && n > 0) {
                left = atomic_fetch_sub(&y->cut_after, n) - n;
                if (left <= 0) {
                    atomic_store(&y->cut_after, -1);
                    atomic_fetch_add(&y->cuts, 1);
                    open = false;
                }
            }
        }
    }
    reset_close(up);
    reset_close(down);
    something_happened();
}

static inline void *relay_main(void *arg)
{
    struct relay *y = arg;
    while (!atomic_load(&y->stop)) {
        struct pollfd pf = {y->listener, POLLIN, 0};
        if (poll(&pf, 1, 20) <= 0)
            continue;
        int up = accept4(y->listener, NULL, NULL, SOCK_CLOEXEC);
        if (up >= 0 && atomic_load(&y->refuse))
            reset_close(up);
        else if (up >= 0)
            relay_one(y, up);
    }
    return NULL;
}

static inline uint16_t relay_start(struct relay *y, int target_port)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof(in);
    y->target_port = target_port;
    atomic_store(&y->cut_after, -1);
    y->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(y->listener >= 0);
    assert_int_equal(bind(y->listener, (struct sockaddr *)&in, sizeof(in)), 0);
    assert_int_equal(listen(y->listener, 8), 0);
    assert_int_equal(getsockname(y->listener, (struct sockaddr *)&in, &len), 0);
    y->port = ntohs(in.sin_port);
    assert_int_equal(pthread_create(&y->thread, NULL, relay_main, y), 0);
    return y->port;
}

/* --- the pair --------------------------------------------------------------------------------------------------------------- */

static inline int pair_setup(void **state)
{
    struct pair *p = calloc(1, sizeof(*p));
    assert_non_null(p);
    (void)dmt_log_init("test", NULL, getenv("REPLICA_TEST_TALK") ? DMT_LOG_DEBUG : DMT_LOG_ERROR);
    strcpy(p->dir, "/var/tmp/dmt-replica-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    node_init(p, &p->a, "gpu", 0xa1);
    node_init(p, &p->b, "cpu", 0xb2);
    p->relay.listener = -1;
    current = p;
    *state = p;
    return 0;
}

static inline int pair_teardown(void **state)
{
    struct pair *p = *state;
    atomic_store(&p->a.hold_sync, false);
    atomic_store(&p->b.hold_sync, false);
    atomic_store(&p->b.hold_data, false);
    if (p->relay.listener >= 0) {
        atomic_store(&p->relay.stop, true);
        pthread_join(p->relay.thread, NULL);
        close(p->relay.listener);
    }
    node_free(&p->a);
    node_free(&p->b);
    shell("rm -rf %s", p->dir);
    current = NULL;
    free(p);
    return 0;
}

/* Both with TLS; a: holder of epoch 1.0 that listens; b: standby with an equal empty store that dials (through the relay if
 * asked). */
static inline void pair_connect(struct pair *p, bool relay)
{
    node_tls(&p->a, p->dir);
    node_tls(&p->b, p->dir);
    node_create(&p->a);
    node_create(&p->b);
    node_open(&p->a, false);
    node_open(&p->b, true);
    node_listen(&p->a);
    uint16_t port = dmt_replica_port(p->a.r);
    node_dial(&p->b, relay ? relay_start(&p->relay, port) : port);
    node_begin(&p->a, EPOCH(1, 0), true);
    node_receive(&p->b, 0);
}

#endif
