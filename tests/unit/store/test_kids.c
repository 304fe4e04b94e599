/* test_kids.c: the entries of a directory by cookie against a plain array: what is added and
 * removed in any order, places between entries, leaves that are halved and that get empty, a cookie
 * twice (a damaged database). */
#include "tests/unit/store/util.h"

#define COOKIES 4000u

static uint32_t g_seed = 11;
static uint32_t rnd(uint32_t n)
{
    g_seed = g_seed * 1664525u + 1013904223u;
    return (g_seed >> 8) % n;
}

static struct dent *g_dent; /* one for each cookie */
static bool g_in[COOKIES];
static struct kids *g_kids;

static int setup(void **state)
{
    (void)state;
    g_dent = store_zalloc(COOKIES * sizeof(*g_dent));
    for (uint32_t c = 0; c < COOKIES; c++)
        g_dent[c].v.cookie = c;
    memset(g_in, 0, sizeof(g_in));
    g_kids = NULL;
    return 0;
}
static int teardown(void **state)
{
    (void)state;
    store_kids_free(g_kids);
    free(g_dent);
    return 0;
}

static void add(uint32_t c)
{
    store_kids_add(&g_kids, c, &g_dent[c]);
    g_in[c] = true;
}
static void del(uint32_t c)
{
    store_kids_remove(&g_kids, c, &g_dent[c]);
    g_in[c] = false;
}

/* Everything behind `after` (-1: all), in order. */
static void walk(int64_t after)
{
    struct kids_at at = {.kids = g_kids};
    if (after >= 0)
        at = store_kids_after(g_kids, (uint32_t)after);
    for (uint32_t c = (uint32_t)(after + 1); c < COOKIES; c++) {
        if (!g_in[c])
            continue;
        assert_ptr_equal(store_kids_peek(&at), &g_dent[c]);
        store_kids_step(&at);
    }
    assert_null(store_kids_peek(&at));
}

static void in_any_order(void **state)
{
    (void)state;
    walk(-1);
    for (int i = 0; i < 40000; i++) {
        uint32_t c = rnd(COOKIES);
        /* it fills up, gets sparse, and so on */
        bool want = rnd(10) < (i / 8000 % 2 ? 2 : 8);
        if (want && !g_in[c])
            add(c);
        else if (!want && g_in[c])
            del(c);
        if (i % 97 == 0)
            walk(i % 2 ? -1 : (int64_t)rnd(COOKIES + 100));
    }
    for (uint32_t c = 0; c < COOKIES; c++)
        if (g_in[c])
            del(c);
    assert_null(g_kids);
}

static void as_directories_do(void **state)
{
    (void)state;
    for (uint32_t c = 3; c < COOKIES; c++)
        add(c);
    walk(-1);
    for (uint32_t c = 3; c < COOKIES; c++)
        if (c % 100 != 7)
            del(c);
    walk(-1);
    for (int64_t c = -1; c < COOKIES; c += 13)
        walk(c);
    for (uint32_t c = COOKIES; c-- > 0;)
        if (!g_in[c])
            add(c);
    walk(-1);
    walk(0);
}

static void one_cookie_twice(void **state)
{
    (void)state;
    struct dent twin[70];
    for (uint32_t c = 0; c < 5; c++)
        add(c);
    for (size_t i = 0; i < 70; i++)
        store_kids_add(&g_kids, 0, &twin[i]);
    for (size_t i = 70; i-- > 0;)
        store_kids_remove(&g_kids, 0, &twin[i]);
    walk(-1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(in_any_order, setup, teardown),
        cmocka_unit_test_setup_teardown(as_directories_do, setup, teardown),
        cmocka_unit_test_setup_teardown(one_cookie_twice, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
