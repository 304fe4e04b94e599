/* test_peer.c: peers that are not what they should be: hand-made frames, garbage, wrong
 * certificates, the wrong workspace, two at a time. */
#include "tests/unit/replica/pair.h"
#include "fs/base/hash.h"

/* --- a peer made by hand, without TLS --------------------------------------------------------- */

struct fake {
    int fd;
    struct dmt_buf in;
    struct replica_msg last; /* valid until the next receive */
    uint8_t store_id[16], lineage[16];
};

static void fake_connect(struct fake *f, uint16_t port)
{
    memset(f, 0, sizeof(*f));
    dmt_buf_init(&f->in);
    f->fd = relay_connect(port);
    assert_true(f->fd >= 0);
    memset(f->store_id, 0xfa, 16);
    memset(f->lineage, 7, 16);
}

static void fake_raw(struct fake *f, const void *p, size_t n)
{
    assert_int_equal(send(f->fd, p, n, MSG_NOSIGNAL), (ssize_t)n);
}

static void fake_send(struct fake *f, const struct replica_msg *m)
{
    struct dmt_buf b;
    dmt_buf_init(&b);
    replica_encode(m, &b);
    assert_false(b.bad);
    (void)send(f->fd, b.p, b.len,
               MSG_NOSIGNAL); /* the other side may have hung up: the receive tells */
    dmt_buf_free(&b);
}

/* Next frame of this type, others are dropped; 0 = the connection ended first. */
static int fake_recv(struct fake *f, uint8_t type)
{
    uint64_t until = test_ms() + 20000;
    size_t done = 0; /* bytes of the frame handed out */
    if (f->last.type) {
        uint8_t t;
        uint32_t len;
        assert_int_equal(replica_head(f->in.p, f->in.len, &t, &len), 1);
        done = REPLICA_HEAD + len;
        memmove(f->in.p, f->in.p + done, f->in.len - done);
        f->in.len -= done;
        f->last.type = 0;
    }
    for (;;) {
        uint8_t t = 0;
        uint32_t len = 0;
        while (replica_head(f->in.p, f->in.len, &t, &len) == 1 && f->in.len >= REPLICA_HEAD + len) {
            assert_int_equal(replica_decode(t, f->in.p + REPLICA_HEAD, len, &f->last), 0);
            if (t == type)
                return 1;
            f->last.type = 0;
            memmove(f->in.p, f->in.p + REPLICA_HEAD + len, f->in.len - REPLICA_HEAD - len);
            f->in.len -= REPLICA_HEAD + len;
        }
        struct pollfd pf = {f->fd, POLLIN, 0};
        assert_true(test_ms() < until);
        if (poll(&pf, 1, 100) <= 0)
            continue;
        uint8_t buf[65536];
        ssize_t n = recv(f->fd, buf, sizeof(buf), 0);
        if (n <= 0)
            return 0;
        dmt_put_raw(&f->in, buf, (size_t)n);
    }
}

static void fake_close(struct fake *f)
{
    close(f->fd);
    dmt_buf_free(&f->in);
}

static struct replica_msg fake_hello(const struct fake *f, enum dmt_replica_role role,
                                     uint64_t epoch, uint64_t seen)
{
    struct replica_msg m = {.type = REPLICA_HELLO};
    m.HELLO.version = REPLICA_VERSION;
    memcpy(m.HELLO.store_id, f->store_id, 16);
    memcpy(m.HELLO.lineage, f->lineage, 16);
    m.HELLO.workspace = replica_span_of(WS_NAME);
    m.HELLO.node = replica_span_of("fake");
    m.HELLO.role = (uint8_t)role;
    m.HELLO.flags = REPLICA_HELLO_ALONE;
    m.HELLO.epoch = epoch;
    m.HELLO.seen = seen;
    return m;
}

static void fake_greet(struct fake *f, const struct replica_msg *hello)
{
    fake_raw(f, DMT_REPLICA_PREAMBLE, DMT_REPLICA_PREAMBLE_LEN);
    fake_send(f, hello);
    assert_int_equal(fake_recv(f, REPLICA_HELLO), 1);
    struct replica_msg v = {.type = REPLICA_VERDICT};
    v.VERDICT.relation = 0;
    fake_send(f, &v);
    assert_int_equal(fake_recv(f, REPLICA_VERDICT), 1);
}

/* --- records of a real journal ---------------------------------------------------------------- */

struct frame {
    struct dmt_buf raw, packed;
    struct dmt_pos before, after;
};

/* Records (after, upto] of n's journal. */
static void frame_of(struct node *n, uint64_t after, uint64_t upto, struct frame *f)
{
    struct dmt_jreader *rd;
    struct dmt_rec rec;
    const uint8_t *raw;
    size_t len;
    dmt_buf_init(&f->raw);
    dmt_buf_init(&f->packed);
    assert_int_equal(dmt_journal_pos_at(dmt_ws_journal(n->ws), after, &f->before), 0);
    assert_int_equal(dmt_jreader_open(&rd, dmt_ws_journal(n->ws), after, NULL), 0);
    while (dmt_jreader_next(rd, &rec, &raw, &len, NULL) == 1 && rec.seq <= upto) {
        dmt_put_raw(&f->raw, raw, len);
        f->after = (struct dmt_pos){rec.epoch, rec.seq, rec.chain};
    }
    dmt_jreader_close(rd);
    assert_int_equal(replica_pack(f->raw.p, f->raw.len, &f->packed), 0);
}

static void frame_free(struct frame *f)
{
    dmt_buf_free(&f->raw);
    dmt_buf_free(&f->packed);
}

static struct replica_msg records_of(const struct frame *f, uint64_t epoch)
{
    struct replica_msg m = {.type = REPLICA_RECORDS};
    m.RECORDS.epoch = epoch;
    m.RECORDS.first = f->before.seq + 1;
    m.RECORDS.last = f->after.seq;
    m.RECORDS.chain_before = f->before.chain;
    m.RECORDS.chain_after = f->after.chain;
    m.RECORDS.durable = f->after.seq;
    m.RECORDS.raw_len = (uint32_t)f->raw.len;
    m.RECORDS.data = (struct replica_span){f->packed.p, (uint32_t)f->packed.len};
    return m;
}

/* a: a holder on its own, whose records the fake ships; b: the standby under test, listening,
 * tls=off. */
static void standby_setup(struct pair *p)
{
    node_create(&p->a);
    node_create(&p->b);
    node_open(&p->a, false);
    node_open(&p->b, true);
    node_begin(&p->a, EPOCH(2, 0), true);
    write_text(&p->a, "one", "1");
    write_text(&p->a, "two", "2");
    write_bulk(&p->a, make_file(&p->a, "bulk"), 0, 2u << 20, 1);
    assert_int_equal(dmt_ws_sync_wait(p->a.ws, 0), 0);
    node_listen(&p->b);
    node_receive(&p->b, EPOCH(1, 0));
}

/* Fake holder of `epoch` up to the point where b receives. */
static void fake_stream(struct pair *p, struct fake *f, uint64_t epoch)
{
    fake_connect(f, dmt_replica_port(p->b.r));
    struct replica_msg hello = fake_hello(f, DMT_REPLICA_SENDER, epoch, epoch);
    fake_greet(f, &hello);
    assert_int_equal(fake_recv(f, REPLICA_READY), 1);
    assert_int_equal(f->last.READY.epoch, epoch);
    struct replica_msg m = {.type = REPLICA_STREAM};
    m.STREAM.epoch = epoch;
    m.STREAM.after = f->last.READY.at;
    fake_send(f, &m);
}

static void hand_made_frames_are_taken(void **state)
{
    struct pair *p = *state;
    struct fake f;
    struct frame fr;
    standby_setup(p);
    fake_stream(p, &f, EPOCH(2, 0));
    frame_of(&p->a, 0, UINT64_MAX, &fr);
    struct replica_msg m = records_of(&fr, EPOCH(2, 0));
    fake_send(&f, &m);
    do
        assert_int_equal(fake_recv(&f, REPLICA_ACK), 1);
    while (f.last.ACK.durable < fr.after.seq);
    assert_int_equal(f.last.ACK.chain_seq, fr.after.seq);
    assert_int_equal(f.last.ACK.chain, fr.after.chain);
    assert_int_equal(fake_recv(&f, REPLICA_PULL), 1); /* and it asks for the bulk bytes */
    frame_free(&fr);
    fake_close(&f);
}

/* Rule 4. The records themselves are right and would extend the journal. */
static void a_frame_of_a_lower_epoch_is_refused(void **state)
{
    struct pair *p = *state;
    struct fake f;
    struct frame fr;
    standby_setup(p);
    fake_stream(p, &f, EPOCH(3, 0));
    frame_of(&p->a, 0, 2, &fr);
    struct replica_msg m = records_of(&fr, EPOCH(2, 0));
    fake_send(&f, &m);
    assert_int_equal(fake_recv(&f, REPLICA_BYE), 1);
    assert_int_equal(f.last.BYE.code, (uint32_t)-DMT_E_STALE);
    assert_int_equal(f.last.BYE.epoch, EPOCH(3, 0));
    assert_int_equal(tail_of(&p->b), 0);
    fake_close(&f);
    /* Nor by somebody who never heard of epoch 3. */
    fake_connect(&f, dmt_replica_port(p->b.r));
    struct replica_msg hello = fake_hello(&f, DMT_REPLICA_SENDER, EPOCH(2, 0), EPOCH(2, 0));
    fake_greet(&f, &hello);
    struct replica_msg stream = {.type = REPLICA_STREAM};
    stream.STREAM.epoch = EPOCH(2, 0);
    fake_send(&f, &stream);
    fake_send(&f, &m);
    assert_int_equal(fake_recv(&f, REPLICA_READY), 0);
    assert_int_equal(tail_of(&p->b), 0);
    frame_free(&fr);
    fake_close(&f);
}

static void records_that_do_not_hold_together(void **state)
{
    struct pair *p = *state;
    standby_setup(p);
    for (int kind = 0; kind < 9; kind++) {
        struct fake f;
        struct frame fr;
        fake_stream(p, &f, EPOCH(2, 0));
        frame_of(&p->a, kind == 0 ? 1 : 0, 4, &fr); /* 0: begins too late */
        if (kind == 1)
            fr.raw.p[fr.raw.len - 9] ^= 1; /* a flipped bit in a record */
        if (kind == 2)
            fr.raw.len -= 8; /* cut */
        if (kind <= 2) {
            dmt_buf_reset(&fr.packed);
            assert_int_equal(replica_pack(fr.raw.p, fr.raw.len, &fr.packed), 0);
        }
        struct replica_msg m = records_of(&fr, EPOCH(2, 0));
        if (kind == 3)
            m.RECORDS.chain_after ^= 1;
        if (kind == 4)
            m.RECORDS.chain_before ^= 1;
        if (kind == 5)
            m.RECORDS.last++;
        if (kind == 6)
            m.RECORDS.raw_len++;
        if (kind == 7)
            m.RECORDS.raw_len = UINT32_MAX;
        if (kind == 8)
            m.RECORDS.data.n = 5;
        fake_send(&f, &m);
        assert_int_equal(fake_recv(&f, REPLICA_BYE), 1);
        assert_int_equal(tail_of(&p->b), 0);
        frame_free(&fr);
        fake_close(&f);
        WAIT_FOR(!p->b.up);
    }
    assert_true(said(&p->b, p->b.failed, ""));
}

static struct replica_msg bulk_of(struct dmt_buf *packed, uint64_t ino, uint64_t off, uint64_t seq,
                                  const uint8_t *raw, uint32_t n)
{
    struct replica_msg m = {.type = REPLICA_BULK};
    dmt_buf_reset(packed);
    assert_int_equal(replica_pack(raw, n, packed), 0);
    m.BULK.epoch = EPOCH(2, 0);
    m.BULK.ino = ino;
    m.BULK.off = off;
    m.BULK.seq = seq;
    m.BULK.hash = dmt_hash64(seq, raw, n);
    m.BULK.raw_len = n;
    m.BULK.data = (struct replica_span){packed->p, (uint32_t)packed->len};
    return m;
}

/* R5. The bytes are of a range that IS missing, with the right position and checksum, but this
 * connection did not ask for them. */
static void bulk_that_was_not_asked_for_is_refused(void **state)
{
    struct pair *p = *state;
    struct fake f;
    struct frame fr;
    struct dmt_buf packed;
    dmt_buf_init(&packed);
    static uint8_t raw[REPLICA_BULK_MAX];
    standby_setup(p);
    for (int kind = 0; kind < 4; kind++) {
        fake_stream(p, &f, EPOCH(2, 0));
        if (kind == 0) {
            frame_of(&p->a, 0, UINT64_MAX, &fr);
            struct replica_msg m = records_of(&fr, EPOCH(2, 0));
            fake_send(&f, &m);
            frame_free(&fr);
        }
        assert_int_equal(fake_recv(&f, REPLICA_PULL), 1);
        struct replica_msg_PULL want = f.last.PULL;
        uint32_t n = want.length < sizeof(raw) ? (uint32_t)want.length : (uint32_t)sizeof(raw);
        assert_true(want.length > 4096);
        struct replica_msg m = bulk_of(&packed, want.ino, want.off, want.seq, raw, n);
        if (kind == 0)
            m.BULK.off += 4096; /* in the midst of what was asked for */
        if (kind == 1)
            m.BULK.seq--;
        if (kind == 2)
            m.BULK.ino++;
        if (kind == 3)
            m.BULK.hash ^= 1;
        if (kind < 3)
            m.BULK.hash = dmt_hash64(m.BULK.seq, raw, n);
        uint64_t missing = 0;
        struct dmt_ws_status st;
        dmt_ws_status(p->b.ws, &st);
        missing = st.missing_bytes;
        fake_send(&f, &m);
        assert_int_equal(fake_recv(&f, REPLICA_BYE), 1);
        WAIT_FOR(!p->b.up);
        dmt_ws_status(p->b.ws, &st);
        assert_int_equal(st.missing_bytes, missing);
        fake_close(&f);
    }
    dmt_buf_free(&packed);
    /* The real holder's bytes are taken. */
    node_listen(&p->a);
    dmt_replica_set_role(p->a.r, DMT_REPLICA_SENDER, EPOCH(2, 0), true, EPOCH(2, 0));
    dmt_replica_dial(p->b.r, "127.0.0.1", dmt_replica_port(p->a.r));
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_equal_trees(&p->a, &p->b);
}

/* --- acknowledgements made by hand ------------------------------------------------------------ */

static void false_acknowledgements_do_not_count(void **state)
{
    struct pair *p = *state;
    node_create(&p->a);
    node_open(&p->a, false);
    node_begin(&p->a, EPOCH(2, 0), true);
    write_text(&p->a, "one", "1");
    node_listen(&p->a);
    dmt_replica_set_role(p->a.r, DMT_REPLICA_SENDER, EPOCH(2, 0), true, EPOCH(2, 0));
    uint64_t tail = tail_of(&p->a);
    struct dmt_pos at;
    assert_int_equal(dmt_journal_pos_at(dmt_ws_journal(p->a.ws), tail, &at), 0);
    for (int kind = 0; kind < 5; kind++) {
        struct fake f;
        struct dmt_pos zero;
        fake_connect(&f, dmt_replica_port(p->a.r));
        struct replica_msg hello = fake_hello(&f, DMT_REPLICA_RECEIVER, 0, EPOCH(1, 0));
        fake_greet(&f, &hello);
        struct replica_msg ack = {.type = REPLICA_ACK};
        ack.ACK.epoch = EPOCH(2, 0);
        ack.ACK.received = ack.ACK.durable = ack.ACK.chain_seq = tail;
        ack.ACK.chain = at.chain;
        if (kind == 0)
            fake_send(&f, &ack); /* before READY: does not count */
        struct replica_msg ready = {.type = REPLICA_READY};
        ready.READY.epoch = EPOCH(2, 0);
        assert_int_equal(dmt_journal_pos_at(dmt_ws_journal(p->a.ws), 0, &zero), 0);
        ready.READY.at = zero;
        ready.READY.why = replica_span_of("");
        fake_send(&f, &ready);
        assert_int_equal(fake_recv(&f, REPLICA_STREAM), 1);
        assert_int_equal(fake_recv(&f, REPLICA_RECORDS), 1);
        assert_int_equal(dmt_replica_peer_durable(p->a.r, f.store_id), 0);
        if (kind == 1)
            ack.ACK.epoch = EPOCH(1, 0); /* of an older epoch: ignored */
        if (kind == 2)
            ack.ACK.chain ^= 1;
        if (kind == 3)
            ack.ACK.durable = tail + 1;
        if (kind == 4)
            ack.ACK.epoch = EPOCH(9, 0); /* we are superseded */
        if (kind > 0)
            fake_send(&f, &ack);
        if (kind >= 2) {
            assert_int_equal(fake_recv(&f, REPLICA_BYE), 1);
        } else {
            struct replica_msg ping = {.type = REPLICA_PING};
            fake_send(&f, &ping);
            assert_int_equal(fake_recv(&f, REPLICA_PONG), 1);
        }
        assert_int_equal(dmt_replica_peer_durable(p->a.r, f.store_id), 0);
        assert_int_equal(p->a.acked_durable, 0);
        fake_close(&f);
        WAIT_FOR(!p->a.up);
    }
    assert_int_equal(p->a.higher, EPOCH(9, 0));
    assert_int_equal(p->a.pairs, 0);
}

/* --- hello ------------------------------------------------------------------------------------ */

static void strangers_are_refused(void **state)
{
    struct pair *p = *state;
    standby_setup(p);
    for (int kind = 0; kind < 7; kind++) {
        struct fake f;
        fake_connect(&f, dmt_replica_port(p->b.r));
        struct replica_msg h = fake_hello(&f, DMT_REPLICA_SENDER, EPOCH(2, 0), EPOCH(2, 0));
        if (kind == 0)
            h.HELLO.version++;
        if (kind == 1)
            h.HELLO.workspace = replica_span_of("another");
        if (kind == 2)
            h.HELLO.lineage[3] ^= 1;
        if (kind == 3)
            memcpy(h.HELLO.store_id, p->b.ident.store_id, 16);
        if (kind == 4)
            h.HELLO.node = replica_span_of("");
        if (kind == 5)
            h.HELLO.role = 9;
        if (kind == 6)
            h.HELLO.epochs = (struct replica_span){(const uint8_t *)"seven b", 7};
        fake_raw(&f, DMT_REPLICA_PREAMBLE, DMT_REPLICA_PREAMBLE_LEN);
        fake_send(&f, &h);
        assert_int_equal(fake_recv(&f, REPLICA_VERDICT), 0);
        fake_close(&f);
    }
    assert_int_equal(p->b.ups, 0);
}

static void a_second_peer_is_refused_while_the_first_is_there(void **state)
{
    struct pair *p = *state;
    struct fake f, g;
    standby_setup(p);
    fake_stream(p, &f, EPOCH(2, 0));
    WAIT_FOR(p->b.follows == 1);
    fake_connect(&g, dmt_replica_port(p->b.r));
    memset(g.store_id, 0xdd, 16);
    struct replica_msg h = fake_hello(&g, DMT_REPLICA_SENDER, EPOCH(5, 0), EPOCH(5, 0));
    fake_raw(&g, DMT_REPLICA_PREAMBLE, DMT_REPLICA_PREAMBLE_LEN);
    fake_send(&g, &h);
    assert_int_equal(fake_recv(&g, REPLICA_VERDICT), 0);
    fake_close(&g);
    assert_true(p->b.up);
    /* The same peer on a new connection replaces its old one. */
    fake_connect(&g, dmt_replica_port(p->b.r));
    h = fake_hello(&g, DMT_REPLICA_SENDER, EPOCH(2, 0), EPOCH(2, 0));
    fake_greet(&g, &h);
    assert_int_equal(fake_recv(&f, REPLICA_STATE), 0);
    WAIT_FOR(p->b.up && p->b.ups == 2);
    fake_close(&f);
    fake_close(&g);
}

static void nothing_but_a_hello_comes_first(void **state)
{
    struct pair *p = *state;
    standby_setup(p);
    struct frame fr;
    frame_of(&p->a, 0, 2, &fr);
    for (int kind = 0; kind < 3; kind++) {
        struct fake f;
        fake_connect(&f, dmt_replica_port(p->b.r));
        fake_raw(&f, DMT_REPLICA_PREAMBLE, DMT_REPLICA_PREAMBLE_LEN);
        struct replica_msg m = records_of(&fr, EPOCH(2, 0));
        if (kind == 1)
            m = (struct replica_msg){.type = REPLICA_PING};
        if (kind == 2)
            m = (struct replica_msg){.type = REPLICA_ORDER};
        fake_send(&f, &m);
        while (fake_recv(&f, REPLICA_BYE) == 1)
            ;
        fake_close(&f);
    }
    frame_free(&fr);
    assert_int_equal(p->b.ups, 0);
    assert_int_equal(tail_of(&p->b), 0);
}

/* --- garbage ---------------------------------------------------------------------------------- */

static void throw_garbage(uint16_t port, uint64_t *x, bool preamble)
{
    int fd = relay_connect(port);
    assert_true(fd >= 0);
    if (preamble)
        (void)send(fd, DMT_REPLICA_PREAMBLE, 8, MSG_NOSIGNAL);
    uint8_t buf[3000];
    for (size_t i = 0; i < sizeof(buf); i++) {
        *x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
        buf[i] = (uint8_t)*x;
    }
    if (*x & 1) { /* looks like a frame of HELLO at least */
        dmt_st32(buf, (uint32_t)(*x >> 8 & 2047));
        memcpy(buf + 4, "\1\0\0\0", 4);
    }
    (void)send(fd, buf, *x % sizeof(buf) + 1, MSG_NOSIGNAL);
    if (*x & 2)
        shutdown(fd, SHUT_WR);
    close(fd);
}

static void garbage_hurts_nobody(void **state)
{
    struct pair *p = *state;
    uint64_t x = 99;
    node_tls(&p->a, p->dir);
    node_tls(&p->b, p->dir);
    node_create(&p->a);
    node_create(&p->b);
    node_open(&p->a, false);
    node_open(&p->b, true);
    node_listen(&p->a);
    node_begin(&p->a, EPOCH(1, 0), true);
    for (int i = 0; i < 60; i++)
        throw_garbage(dmt_replica_port(p->a.r), &x, i & 1);
    /* Some that say nothing at all, more than may wait at a time. */
    int silent[20];
    for (int i = 0; i < 20; i++)
        silent[i] = relay_connect(dmt_replica_port(p->a.r));
    for (int i = 0; i < 20; i++)
        close(silent[i]);
    node_dial(&p->b, dmt_replica_port(p->a.r));
    node_receive(&p->b, 0);
    write_text(&p->a, "x", "x");
    WAIT_FOR(same_place(&p->a, &p->b));
    for (int i = 0; i < 20; i++)
        throw_garbage(dmt_replica_port(p->a.r), &x, i & 1);
    write_text(&p->a, "y", "y");
    WAIT_FOR(same_place(&p->a, &p->b));
    assert_int_equal(p->a.ups, 1);
}

/* Does who comes now get a hello? Not while too many that said nothing are not put away. */
static bool greets(struct pair *p)
{
    struct fake f;
    fake_connect(&f, dmt_replica_port(p->b.r));
    (void)send(f.fd, DMT_REPLICA_PREAMBLE, DMT_REPLICA_PREAMBLE_LEN, MSG_NOSIGNAL);
    struct replica_msg hello = fake_hello(&f, DMT_REPLICA_SENDER, EPOCH(2, 0), EPOCH(2, 0));
    fake_send(&f, &hello);
    bool yes = fake_recv(&f, REPLICA_HELLO) == 1;
    shutdown(f.fd, SHUT_WR);
    while (fake_recv(&f, REPLICA_HELLO) == 1)
        ; /* until it has put this one away, too */
    fake_close(&f);
    return yes;
}

static void garbage_without_tls_hurts_nobody(void **state)
{
    struct pair *p = *state;
    uint64_t x = 4711;
    standby_setup(p);
    for (int i = 0; i < 200; i++)
        throw_garbage(dmt_replica_port(p->b.r), &x, i % 4 != 0);
    WAIT_FOR(greets(p)); /* the listener comes back by itself */
    /* Garbage in the midst of a stream. */
    for (int i = 0; i < 30; i++) {
        struct fake f;
        uint8_t buf[600];
        fake_stream(p, &f, EPOCH(2, 0));
        for (size_t k = 0; k < sizeof(buf); k++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            buf[k] = (uint8_t)x;
        }
        dmt_st32(buf, (uint32_t)(x >> 20 & 511));
        buf[4] = (uint8_t)(1 + x % 22); /* a known type, a small length, a body of noise */
        buf[5] = buf[6] = buf[7] = 0;
        fake_raw(&f, buf, sizeof(buf));
        while (fake_recv(&f, REPLICA_STATE) == 1)
            ;
        fake_close(&f);
    }
    assert_int_equal(tail_of(&p->b), 0);
    assert_true(said(&p->b, p->b.failed, ""));
    struct fake f;
    fake_stream(p, &f, EPOCH(2, 0));
    fake_close(&f);
}

/* --- TLS -------------------------------------------------------------------------------------- */

static void open_both(struct pair *p)
{
    node_create(&p->a);
    node_create(&p->b);
    node_open(&p->a, false);
    node_open(&p->b, true);
}

static void a_foreign_certificate_is_refused(void **state)
{
    struct pair *p = *state;
    char other[96];
    (void)snprintf(other, sizeof(other), "%s/other-ca", p->dir);
    shell("mkdir %s", other);
    node_tls(&p->a, p->dir);
    node_tls(&p->b, other);
    open_both(p);
    node_listen(&p->a);
    node_begin(&p->a, EPOCH(1, 0), true);
    node_dial(&p->b, dmt_replica_port(p->a.r));
    node_receive(&p->b, 0);
    struct dmt_replica_status s;
    WAIT_FOR((dmt_replica_status(p->b.r, &s), s.refused >= 2)); /* and it tries again */
    WAIT_FOR(said(&p->b, p->b.last_event, "refused"));
    assert_int_equal(p->a.ups + p->b.ups, 0);
    assert_int_equal(tail_of(&p->b), 0);
}

static void a_name_that_is_not_the_certificates_is_refused(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    node_tls(&p->a, p->dir);
    p->b.name = "mallory";
    node_tls(&p->b, p->dir);
    p->b.name = "cpu";
    open_both(p);
    node_listen(&p->a);
    node_begin(&p->a, EPOCH(1, 0), true);
    node_dial(&p->b, dmt_replica_port(p->a.r));
    node_receive(&p->b, 0);
    struct dmt_replica_status s;
    WAIT_FOR((dmt_replica_status(p->a.r, &s), s.refused >= 2));
    assert_int_equal(p->a.ups, 0);
    /* A good certificate of our CA, but not the peer that is configured. */
    node_hang_up(&p->a);
    node_hang_up(&p->b);
    struct dmt_replica_conf c = node_conf(&p->a);
    c.listen_host = "127.0.0.1";
    c.peer_node = "cpu";
    struct dmt_replica *r;
    check(dmt_replica_start(&r, &c, &err), &err);
    p->a.r = r;
    dmt_replica_set_ws(p->a.r, p->a.ws);
    dmt_replica_set_role(p->a.r, DMT_REPLICA_SENDER, EPOCH(1, 0), true, EPOCH(1, 0));
    p->b.name = "mallory";
    node_dial(&p->b, dmt_replica_port(p->a.r));
    node_receive(&p->b, 0);
    WAIT_FOR((dmt_replica_status(p->a.r, &s), s.refused >= 2));
    assert_int_equal(p->a.ups, 0);
}

static void tls_off_stays_on_loopback(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    struct dmt_replica_conf c = node_conf(&p->a);
    struct dmt_replica *r = NULL;
    c.listen_host = "0.0.0.0";
    assert_int_equal(dmt_replica_start(&r, &c, &err), DMT_E_CONFIG);
    assert_non_null(strstr(err.msg, "loopback"));
    c.listen_host = NULL;
    c.dial_host = "192.0.2.1";
    c.dial_port = 7410;
    assert_int_equal(dmt_replica_start(&r, &c, &err), DMT_E_CONFIG);
    c.dial_host = "::1";
    check(dmt_replica_start(&r, &c, &err), &err);
    /* A change of the address is checked, too. */
    dmt_replica_dial(r, "192.0.2.1", 7410);
    struct dmt_replica_status s;
    WAIT_FOR((dmt_replica_status(r, &s), strstr(s.last_error, "loopback") != NULL));
    dmt_replica_stop(r);
    c.dial_host = NULL;
    c.tls_off = false;
    assert_int_equal(dmt_replica_start(&r, &c, &err), DMT_E_CONFIG);
    assert_non_null(strstr(err.msg, "certificates"));
    c.tls_off = true;
    c.listen_host = "no such name.invalid";
    assert_int_equal(dmt_replica_start(&r, &c, &err), DMT_E_CONFIG);
}

static void a_ping_channel_is_handed_over(void **state)
{
    struct pair *p = *state;
    struct dmt_err err = {0};
    node_tls(&p->a, p->dir);
    node_tls(&p->b, p->dir);
    open_both(p);
    node_listen(&p->a);
    int fd = relay_connect(dmt_replica_port(p->a.r));
    struct dmt_tls *t;
    check(dmt_tls_new(&t, p->b.tls, fd, false, &err), &err);
    check(dmt_tls_handshake(t, 5000, &err), &err);
    /* The first ping in the same breath as the preamble: not a byte of it may be lost. */
    check(dmt_tls_write(t, DMT_REPLICA_PING_PREAMBLE "first ping", 18, 5000), NULL);
    check(dmt_tls_write(t, "second ping", 11, 5000), NULL);
    WAIT_FOR(p->a.ping_fd >= 0);
    char buf[32] = "";
    check(dmt_tls_read_full(p->a.ping_tls, buf, 21, 5000), NULL);
    assert_string_equal(buf, "first pingsecond ping");
    assert_string_equal(dmt_tls_peer(p->a.ping_tls), "cpu");
    check(dmt_tls_write(p->a.ping_tls, "pong", 4, 5000), NULL);
    check(dmt_tls_read_full(t, buf, 4, 5000), NULL);
    assert_memory_equal(buf, "pong", 4);
    dmt_tls_free(t);
    close(fd);
}

/* Both dial and both listen: one connection remains, and it is the same for both. */
static void both_dial(void **state)
{
    struct pair *p = *state;
    node_tls(&p->a, p->dir);
    node_tls(&p->b, p->dir);
    open_both(p);
    node_listen(&p->a);
    node_listen(&p->b);
    for (int i = 0; i < 8; i++) {
        unsigned a_ups = p->a.ups, b_ups = p->b.ups;
        dmt_replica_dial(p->a.r, "127.0.0.1", dmt_replica_port(p->b.r));
        dmt_replica_dial(p->b.r, "127.0.0.1", dmt_replica_port(p->a.r));
        if (i == 0) {
            node_begin(&p->a, EPOCH(1, 0), true);
            node_receive(&p->b, 0);
        }
        WAIT_FOR(p->a.up && p->b.up && p->a.ups > a_ups - (i > 0) && p->b.ups > b_ups - (i > 0));
        char name[32];
        (void)snprintf(name, sizeof(name), "f%d", i);
        write_text(&p->a, name, name);
        WAIT_FOR(same_place(&p->a, &p->b));
        /* It stays: two more heartbeats on the same connection. */
        a_ups = p->a.ups;
        unsigned acks = p->a.acks;
        WAIT_FOR(p->a.acks >= acks + 2);
        assert_int_equal(p->a.ups, a_ups);
        /* Both sides lose it at the same time. */
        dmt_replica_set_ws(p->b.r, p->b.ws);
        dmt_replica_set_ws(p->a.r, p->a.ws);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, pair_setup, pair_teardown)
    const struct CMUnitTest tests[] = {
        T(hand_made_frames_are_taken),
        T(a_frame_of_a_lower_epoch_is_refused),
        T(records_that_do_not_hold_together),
        T(bulk_that_was_not_asked_for_is_refused),
        T(false_acknowledgements_do_not_count),
        T(strangers_are_refused),
        T(a_second_peer_is_refused_while_the_first_is_there),
        T(nothing_but_a_hello_comes_first),
        T(garbage_hurts_nobody),
        T(garbage_without_tls_hurts_nobody),
        T(a_foreign_certificate_is_refused),
        T(a_name_that_is_not_the_certificates_is_refused),
        T(tls_off_stays_on_loopback),
        T(a_ping_channel_is_handed_over),
        T(both_dial),
    };
    cmocka_set_test_filter(getenv("ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
