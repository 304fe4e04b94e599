/* test_map.c: trees and content maps against a plain array. */
#include "tests/unit/store/util.h"

#define N 300

static uint32_t g_seed = 7;
static uint32_t rnd(uint32_t n)
{
    g_seed = g_seed * 1664525u + 1013904223u;
    return (g_seed >> 8) % n;
}

struct cell { /* what the model says of one offset */
    uint64_t foff, born;
    int kind; /* -1: nothing */
};

struct dropped {
    const struct cell *model;
    uint64_t bytes;
};
static void on_drop(void *ctx, const struct piece *p)
{
    struct dropped *d = ctx;
    for (uint64_t i = p->off; i < p->end; i++) {
        assert_int_equal(d->model[i].kind, p->kind);
        assert_int_equal(d->model[i].foff, p->foff + (p->kind == PIECE_HOLE ? 0 : i - p->off));
    }
    d->bytes += p->end - p->off;
}

static void compare(const struct pmap *m, const struct cell *model)
{
    uint64_t at = 0;
    size_t n = 0;
    for (const struct piece *p = store_pmap_first(m); p; p = store_pmap_next(p), n++) {
        assert_true(p->off >= at && p->off < p->end);
        for (; at < p->off; at++)
            assert_int_equal(model[at].kind, -1);
        for (; at < p->end; at++) {
            assert_int_equal(model[at].kind, p->kind);
            assert_int_equal(model[at].born, p->born);
            if (p->kind == PIECE_MEM)
                assert_int_equal(p->c->data[p->foff + at - p->off], (uint8_t)model[at].born);
        }
        const struct piece *prev = store_pmap_prev(p);
        assert_true(!prev || prev->end <= p->off);
    }
    for (; at < N; at++)
        assert_int_equal(model[at].kind, -1);
    assert_int_equal(n, m->n);
}

static void cut_and_put(void **state)
{
    (void)state;
    struct cell model[N];
    struct pmap m;
    store_pmap_init(&m);
    for (int i = 0; i < N; i++)
        model[i].kind = -1;
    for (uint64_t born = 1; born < 4000; born++) {
        uint64_t off = rnd(N), end = off + 1 + rnd(born % 5 ? 20 : N);
        end = end > N ? N : end;
        struct dropped d = {.model = model};
        uint64_t covered = 0;
        for (uint64_t i = off; i < end; i++)
            covered += model[i].kind >= 0;
        store_pmap_cut(&m, off, end, on_drop, &d);
        assert_int_equal(d.bytes, covered);
        int kind = (int)rnd(4) - 1;
        struct piece p = {.kind = (uint8_t)kind,
                          .off = off,
                          .end = end,
                          .born = born,
                          .foff = kind == PIECE_FILE ? rnd(1000) : 0};
        for (uint64_t i = off; i < end; i++)
            model[i] = (struct cell){
                .kind = kind, .born = born, .foff = p.foff + (kind == PIECE_HOLE ? 0 : i - off)};
        if (kind == PIECE_MEM) {
            p.c = store_chunk_new((uint32_t)(end - off));
            memset(p.c->data, (int)(uint8_t)born, end - off);
        }
        if (kind >= 0)
            store_pmap_put(&m, &p);
        if (kind == PIECE_MEM)
            store_chunk_unref(p.c);
        compare(&m, model);
        const struct piece *at = store_pmap_at(&m, off);
        assert_true(!at || at->end > off);
    }
    assert_true(store_pmap_end(&m) <= N);
    store_pmap_clear(&m);
    assert_int_equal(m.n, 0);
    assert_int_equal(m.cost, 0);
}

struct seen {
    uint64_t at;
    const uint8_t (*who)[3];
};
static int on_piece(void *ctx, const struct piece *p)
{
    struct seen *s = ctx;
    assert_int_equal(p->off, s->at); /* every byte once, in order */
    for (; s->at < p->end; s->at++) {
        uint64_t want = 0;
        for (int l = 2; l >= 0; l--)
            if (s->who[s->at][l])
                want = (uint64_t)l + 1;
        assert_int_equal(p->born, want);
    }
    return 0;
}
static int stop_at_second(void *ctx, const struct piece *p)
{
    (void)p;
    return ++*(int *)ctx == 2 ? 77 : 0;
}

static void layers_compose(void **state)
{
    (void)state;
    for (int round = 0; round < 300; round++) {
        struct pmap m[3];
        uint8_t who[N][3];
        const struct pmap *layers[3];
        memset(who, 0, sizeof(who));
        for (int l = 0; l < 3; l++) {
            store_pmap_init(&m[l]);
            layers[l] = rnd(5) ? &m[l] : NULL;
            for (int k = 0; layers[l] && k < 8; k++) {
                uint64_t off = rnd(N - 1), end = off + 1 + rnd((uint32_t)(N - off));
                struct piece p = {.kind = PIECE_FILE,
                                  .off = off,
                                  .end = end > N ? N : end,
                                  .born = (uint64_t)l + 1};
                store_pmap_set(&m[l], &p);
                for (uint64_t i = p.off; i < p.end; i++)
                    who[i][l] = 1;
            }
        }
        struct seen s = {.who = who, .at = rnd(N)};
        uint64_t end = s.at + rnd((uint32_t)(N - s.at) + 1);
        assert_int_equal(store_pmap_compose(layers, 3, s.at, end, on_piece, &s), 0);
        assert_int_equal(s.at, end);
        for (int l = 0; l < 3; l++)
            store_pmap_clear(&m[l]);
    }
    struct pmap one;
    store_pmap_init(&one);
    struct piece p = {.kind = PIECE_FILE, .off = 5, .end = 6};
    store_pmap_put(&one, &p);
    const struct pmap *only = &one;
    int count = 0;
    assert_int_equal(store_pmap_compose(&only, 1, 0, 10, stop_at_second, &count), 77);
    store_pmap_clear(&one);
}

static void places(void **state)
{
    (void)state;
    struct piece a = {
        .kind = PIECE_FILE, .off = 10, .end = 20, .owner = 1, .serial = 2, .foff = 100};
    struct piece b = {
        .kind = PIECE_FILE, .off = 20, .end = 30, .owner = 1, .serial = 2, .foff = 110};
    assert_true(store_piece_adjoins(&a, &b));
    b.flags = PIECE_SHARED;
    assert_false(store_piece_adjoins(&a, &b));
    b.flags = 0;
    b.foff = 111;
    assert_false(store_piece_adjoins(&a, &b));
    struct piece part = store_piece_clip(&a, 13, 15);
    assert_int_equal(part.off, 13);
    assert_int_equal(part.end, 15);
    assert_int_equal(part.foff, 103);
    assert_false(store_piece_same_place(&a, &part));
    b = a;
    b.born = 9;
    assert_true(store_piece_same_place(&a, &b));
}

struct num {
    struct tnode tn;
    uint32_t v;
};
static uint32_t num_of(const struct tnode *n)
{
    return ((const struct num *)(const void *)n)->v;
}
static int depth(const struct tnode *n)
{
    int l = n ? depth(n->left) : 0, r = n ? depth(n->right) : 0;
    return n ? 1 + (l > r ? l : r) : 0;
}

static void tree_in_order(void **state)
{
    (void)state;
    enum { COUNT = 4096 };
    struct num *v = calloc(COUNT, sizeof(*v));
    struct tree t = {0};
    assert_non_null(v);
    for (uint32_t i = 0; i < COUNT; i++) { /* ascending: the worst order for a plain tree */
        v[i].v = i;
        struct tnode **link = &t.root, *up = NULL;
        while (*link) {
            up = *link;
            link = i < num_of(up) ? &up->left : &up->right;
        }
        store_tree_link(&t, up, link, &v[i].tn);
    }
    assert_true(depth(t.root) < 60);
    for (uint32_t i = 0; i < COUNT; i += 3)
        store_tree_erase(&t, &v[i].tn);
    uint32_t want = 1, seen = 0;
    for (struct tnode *n = store_tree_first(&t); n; n = store_tree_next(n), seen++) {
        assert_int_equal(num_of(n), want);
        want += want % 3 == 1 ? 1 : 2;
    }
    assert_int_equal(seen, COUNT - (COUNT + 2) / 3);
    for (struct tnode *n = store_tree_last(&t); n; n = store_tree_prev(n))
        seen--;
    assert_int_equal(seen, 0);
    free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(cut_and_put),
                                       cmocka_unit_test(layers_compose), cmocka_unit_test(places),
                                       cmocka_unit_test(tree_in_order)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
