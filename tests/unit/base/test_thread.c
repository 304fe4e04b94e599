/* Threads and the pool: names, signals, order, a full queue, and that free runs what is queued. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/thread.h"

static void *look_at_myself(void *arg)
{
    sigset_t set;
    pthread_getname_np(pthread_self(), arg, 16);
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    return sigismember(&set, SIGTERM) && sigismember(&set, SIGUSR1) ? arg : NULL;
}

static void a_thread_has_a_name_and_no_signals(void **state)
{
    (void)state;
    pthread_t t;
    char name[16];
    void *ret;
    sigset_t before, after;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    assert_int_equal(dmt_thread_start(&t, "a name that is too long", look_at_myself, name), 0);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    assert_int_equal(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
    pthread_join(t, &ret);
    assert_ptr_equal(ret, name);
    assert_string_equal(name, "a name that is ");
}

static atomic_int done;

static void count(void *arg)
{
    (void)arg;
    atomic_fetch_add(&done, 1);
}

static int order[100], order_n;

static void note(void *arg)
{
    order[order_n++] = *(int *)arg;
}

static void one_thread_keeps_the_order(void **state)
{
    (void)state;
    struct dmt_pool *p;
    int id[100];
    order_n = 0;
    assert_int_equal(dmt_pool_new(&p, "pool", 1, 100), 0);
    for (int i = 0; i < 100; i++) {
        id[i] = i;
        assert_int_equal(dmt_pool_submit(p, note, &id[i]), 0);
    }
    dmt_pool_free(p);
    assert_int_equal(order_n, 100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(order[i], i);
}

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    int arrived;
    bool open;
};

static void wait_at(void *arg)
{
    struct gate *g = arg;
    pthread_mutex_lock(&g->lock);
    g->arrived++;
    pthread_cond_broadcast(&g->cond);
    while (!g->open)
        pthread_cond_wait(&g->cond, &g->lock);
    pthread_mutex_unlock(&g->lock);
    atomic_fetch_add(&done, 1);
}

static void a_full_queue_says_so(void **state)
{
    (void)state;
    struct dmt_pool *p;
    struct gate g = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    atomic_store(&done, 0);
    assert_int_equal(dmt_pool_new(&p, "pool", 2, 3), 0);
    assert_int_equal(dmt_pool_submit(p, wait_at, &g), 0);
    assert_int_equal(dmt_pool_submit(p, wait_at, &g), 0);
    pthread_mutex_lock(&g.lock);
    while (g.arrived < 2) /* both threads are busy, the queue is empty */
        pthread_cond_wait(&g.cond, &g.lock);
    pthread_mutex_unlock(&g.lock);
    for (int i = 0; i < 3; i++)
        assert_int_equal(dmt_pool_submit(p, count, NULL), 0);
    assert_int_equal(dmt_pool_submit(p, count, NULL), -EAGAIN);
    pthread_mutex_lock(&g.lock);
    g.open = true;
    pthread_cond_broadcast(&g.cond);
    pthread_mutex_unlock(&g.lock);
    dmt_pool_free(p);
    assert_int_equal(atomic_load(&done), 5);
}

static struct dmt_pool *chain_pool;

static void chain(void *arg)
{
    int *left = arg;
    if (--*left > 0)
        assert_int_equal(dmt_pool_submit(chain_pool, chain, left), 0);
}

static void an_item_may_submit_another_even_at_the_end(void **state)
{
    (void)state;
    int left = 50;
    assert_int_equal(dmt_pool_new(&chain_pool, "pool", 1, 4), 0);
    assert_int_equal(dmt_pool_submit(chain_pool, chain, &left), 0);
    dmt_pool_free(chain_pool);
    assert_int_equal(left, 0);
}

static void *submitter(void *arg)
{
    for (int i = 0; i < 2000;)
        if (dmt_pool_submit(arg, count, NULL) == 0)
            i++;
        else
            sched_yield();
    return NULL;
}

static void many_submitters(void **state)
{
    (void)state;
    struct dmt_pool *p;
    pthread_t t[3];
    atomic_store(&done, 0);
    assert_int_equal(dmt_pool_new(&p, "pool", 4, 16), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(dmt_thread_start(&t[i], "submitter", submitter, p), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    dmt_pool_free(p);
    assert_int_equal(atomic_load(&done), 6000);
    dmt_pool_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thread_has_a_name_and_no_signals),
        cmocka_unit_test(one_thread_keeps_the_order),
        cmocka_unit_test(a_full_queue_says_so),
        cmocka_unit_test(an_item_may_submit_another_even_at_the_end),
        cmocka_unit_test(many_submitters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
