/* Which contents of a bulk file the ledger's judge accepts: rule (3) of tests/lib/bin/ledger.c,
 * case by case. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#pragma GCC diagnostic ignored "-Wunused-function"
#include "tests/lib/ledger_judge.h"

#define CHUNKS 3
#define WHOLE  (CHUNKS * (uint64_t)CHUNK)

static struct model m = {.bulk_bytes = WHOLE};

/* Chunks 0..2 written by these operations; length in bytes. */
static bool allowed(const struct bulk *b, uint64_t len, uint32_t k0, uint32_t k1, uint32_t k2,
                    bool *newest)
{
    uint32_t by[CHUNKS] = {k0, k1, k2};
    struct content got = {.len = len, .by = by};
    *newest = false;
    return is_allowed(&m, b, b->n, &got, newest);
}

#define accepts(...) assert_true(allowed(__VA_ARGS__, &newest))
#define refuses(...) assert_false(allowed(__VA_ARGS__, &newest))

static void new_file_never_acknowledged_may_be_cut_anywhere(void **state)
{
    (void)state;
    struct event ev[] = {{11, 0}, {12, 1}, {13, 2}};
    struct bulk b = {.events = ev, .n = 3, .synced_n = -1};
    bool newest;
    accepts(&b, WHOLE, 11, 12, 13);
    assert_true(newest);
    accepts(&b, 0, 0, 0, 0);
    assert_false(newest);
    accepts(&b, 5, 0, 0, 0);
    accepts(&b, CHUNK + 100, 11, 12, 0);
    refuses(&b, CHUNK + 100, 11, 13, 0);
    refuses(&b, WHOLE + 1, 11, 12, 13);
    refuses(&b, WHOLE, 11, 12, 9);
}

static void acknowledged_file_is_whole(void **state)
{
    (void)state;
    struct event ev[] = {{11, 0}, {12, 1}, {13, 2}};
    struct bulk b = {.events = ev, .n = 3, .synced_n = 3};
    bool newest;
    accepts(&b, WHOLE, 11, 12, 13);
    refuses(&b, WHOLE - 1, 11, 12, 13);
    refuses(&b, 0, 0, 0, 0);
}

static void rewritten_after_acknowledgement_is_old_or_new(void **state)
{
    (void)state;
    struct event ev[] = {{11, 0}, {12, 1}, {13, 2}, {20, -1}, {21, 0}, {22, 1}, {23, 2}};
    struct bulk b = {.events = ev, .n = 7, .synced_n = 3};
    bool newest;
    accepts(&b, WHOLE, 11, 12, 13);
    assert_false(newest);
    accepts(&b, WHOLE, 21, 22, 23);
    assert_true(newest);
    accepts(&b, 2 * (uint64_t)CHUNK, 21, 22, 0); /* the state after operation 22 */
    accepts(&b, CHUNK + 8192, 21, 22, 0);        /* 22 came as several requests, not all of them */
    refuses(&b, CHUNK + 100, 21, 22, 0);         /* a state it never had */
    refuses(&b, WHOLE, 21, 22, 13);
}

static void overwritten_in_place_is_some_state_it_had(void **state)
{
    (void)state;
    struct event ev[] = {{11, 0}, {12, 1}, {13, 2}, {21, 0}, {22, 1}, {23, 2}};
    struct bulk b = {.events = ev, .n = 6, .synced_n = 3};
    bool newest;
    accepts(&b, WHOLE, 11, 12, 13);
    accepts(&b, WHOLE, 21, 12, 13);
    refuses(&b, WHOLE, 11, 22, 13);
    refuses(&b, CHUNK, 21, 0, 0);
    b.synced_n = 5;
    refuses(&b, WHOLE, 11, 12, 13);
    accepts(&b, WHOLE, 21, 22, 13);
}

static void replacement_is_the_old_file_or_the_new_one(void **state)
{
    (void)state;
    struct event old_ev[] = {{11, 0}, {12, 1}, {13, 2}}, ev[] = {{21, 0}, {22, 1}, {23, 2}};
    struct bulk old = {.events = old_ev, .n = 3, .synced_n = 3};
    struct bulk b = {
        .events = ev, .n = 3, .synced_n = -1, .replaced = &old, .replaced_n = 3, .own_n = 3};
    bool newest;
    accepts(&b, WHOLE, 21, 22, 23);
    assert_true(newest);
    accepts(&b, WHOLE, 11, 12, 13);
    assert_false(newest);
    refuses(&b, 0, 0, 0, 0);
    refuses(&b, CHUNK, 21, 0, 0);
    refuses(&b, CHUNK, 11, 0, 0);
    b.synced_n = 3;
    refuses(&b, WHOLE, 11, 12, 13);
    accepts(&b, WHOLE, 21, 22, 23);
}

static void replacing_a_replacement_reaches_back(void **state)
{
    (void)state;
    struct event x_ev[] = {{11, 0}, {12, 1}, {13, 2}}, y_ev[] = {{21, 0}, {22, 1}, {23, 2}},
                 z_ev[] = {{31, 0}, {32, 1}, {33, 2}};
    struct bulk x = {.events = x_ev, .n = 3, .synced_n = 3};
    struct bulk y = {
        .events = y_ev, .n = 3, .synced_n = -1, .replaced = &x, .replaced_n = 3, .own_n = 3};
    struct bulk z = {
        .events = z_ev, .n = 3, .synced_n = -1, .replaced = &y, .replaced_n = 3, .own_n = 3};
    bool newest;
    accepts(&z, WHOLE, 31, 32, 33);
    accepts(&z, WHOLE, 21, 22, 23);
    accepts(&z, WHOLE, 11, 12, 13);
    y.synced_n = 3;
    refuses(&z, WHOLE, 11, 12, 13);
}

static void the_model_repeats_itself(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < 20; seed++) {
        struct model a, b;
        struct op x, y;
        struct line lines[ENTRIES_MAX];
        uint64_t sum_a, sum_b;
        model_init(&a, seed, 1, 1024, 300000);
        model_init(&b, seed, 1, 1024, 300000);
        for (int k = 0; k < 2000; k++) {
            model_next(&a, &x);
            model_next(&b, &y);
            assert_memory_equal(&x, &y, sizeof(x));
        }
        int n = model_lines(&a, lines, false, &sum_a);
        assert_int_equal(n, model_lines(&b, lines, false, &sum_b));
        assert_true(sum_a == sum_b);
        model_free(&a);
        model_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_file_never_acknowledged_may_be_cut_anywhere),
        cmocka_unit_test(acknowledged_file_is_whole),
        cmocka_unit_test(rewritten_after_acknowledgement_is_old_or_new),
        cmocka_unit_test(overwritten_in_place_is_some_state_it_had),
        cmocka_unit_test(replacement_is_the_old_file_or_the_new_one),
        cmocka_unit_test(replacing_a_replacement_reaches_back),
        cmocka_unit_test(the_model_repeats_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
