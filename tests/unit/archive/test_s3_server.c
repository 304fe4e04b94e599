/* test_s3_server.c: the network drivers against a real server that checks signatures (Ceph RGW) and
 * a network that fails. Run by tests/integration/50_archive_drivers.sh, which starts the server and
 * a fault relay before it and sets RGW_ENDPOINT, RGW_BUCKET, RELAY_ENDPOINT, RELAY_CTL and the
 * keys. Without them it ends with 77 (skipped). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "fs/archive/objstore.h"

static const char *g_scheme;
static char g_run[17]; /* keys of their own for each run and scheme */

static void relay(const char *cmd, char *out, size_t size)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", getenv("RELAY_CTL"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
    assert_true(send(fd, cmd, strlen(cmd), 0) > 0);
    ssize_t n = recv(fd, out, size - 1, 0);
    assert_true(n > 0);
    out[n] = 0;
    assert_true(strncmp(out, "error", 5) != 0);
    close(fd);
}

static void relay_do(const char *cmd)
{
    char out[256];
    relay(cmd, out, sizeof(out));
}

static unsigned long relay_stat(const char *name)
{
    char out[256];
    relay("stats", out, sizeof(out));
    char *p = strstr(out, name);
    assert_non_null(p);
    return strtoul(p + strlen(name) + 1, NULL, 10);
}

static struct dmt_objstore *open_at(const char *endpoint, const char *bucket,
                                    const struct dmt_objstore_conf *conf)
{
    char url[512];
    struct dmt_objstore *os;
    struct dmt_err err = {0};
    snprintf(url, sizeof(url), "%s://%s/%s?endpoint=%s&tls=off", g_scheme, bucket, g_run, endpoint);
    if (dmt_objstore_open(&os, url, conf, &err))
        fail_msg("%s", err.msg);
    return os;
}

static struct dmt_objstore *open_direct(void)
{
    return open_at(getenv("RGW_ENDPOINT"), getenv("RGW_BUCKET"), NULL);
}

static struct dmt_objstore *open_relay(uint64_t retry_ms)
{
    struct dmt_objstore_conf conf = {
        .retry_ms = retry_ms, .stall_timeout_s = 1, .connect_timeout_ms = 1000};
    relay_do("pass");
    return open_at(getenv("RELAY_ENDPOINT"), getenv("RGW_BUCKET"), &conf);
}

static uint8_t *noise(size_t n)
{
    uint8_t *p = malloc(n);
    uint64_t x = 88172645463325252ull;
    for (size_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = (uint8_t)x;
    }
    return p;
}

static void ok(int r, const struct dmt_err *err)
{
    if (r)
        fail_msg("%d: %s", r, err->msg);
}

static void check_get(struct dmt_objstore *os, const char *key, const uint8_t *p, size_t n)
{
    struct dmt_err err = {0};
    struct dmt_buf b;
    dmt_buf_init(&b);
    ok(dmt_objstore_get(os, key, 0, 0, &b, &err), &err);
    assert_int_equal(b.len, n);
    assert_true(!n || !memcmp(b.p, p, n));
    dmt_buf_free(&b);
}

static void basic(void **state)
{
    (void)state;
    struct dmt_objstore *os = open_direct();
    struct dmt_err err = {0};
    struct dmt_buf b;
    uint64_t size = 0;
    size_t n = 9u << 20;
    uint8_t *p = noise(n);
    assert_int_equal(dmt_objstore_head(os, "log/a", &size, &err), -ENOENT);
    dmt_buf_init(&b);
    assert_int_equal(dmt_objstore_get(os, "log/a", 0, 0, &b, &err), -ENOENT);
    ok(dmt_objstore_put(os, "log/a", p, n, &err), &err);
    ok(dmt_objstore_put(os, "log/a", p, n, &err), &err);
    assert_int_equal(dmt_objstore_put(os, "log/a", p, n - 1, &err), -EEXIST);
    p[5] ^= 1;
    assert_int_equal(dmt_objstore_put(os, "log/a", p, n, &err), -EEXIST);
    p[5] ^= 1;
    ok(dmt_objstore_put(os, "log/empty", "", 0, &err), &err);
    ok(dmt_objstore_head(os, "log/a", &size, &err), &err);
    assert_int_equal(size, n);
    check_get(os, "log/a", p, n);
    check_get(os, "log/empty", p, 0);
    ok(dmt_objstore_get(os, "log/a", 100, 50, &b, &err), &err);
    assert_true(b.len == 50 && !memcmp(b.p, p + 100, 50));
    dmt_buf_reset(&b);
    ok(dmt_objstore_get(os, "log/a", n - 7, 500, &b, &err), &err);
    assert_true(b.len == 7 && !memcmp(b.p, p + n - 7, 7));
    dmt_buf_reset(&b);
    ok(dmt_objstore_get(os, "log/a", n + 5, 5, &b, &err), &err);
    assert_int_equal(b.len, 0);
    dmt_buf_free(&b);
    ok(dmt_objstore_delete(os, "log/a", &err), &err);
    ok(dmt_objstore_delete(os, "log/a", &err), &err);
    assert_int_equal(dmt_objstore_head(os, "log/a", &size, &err), -ENOENT);
    free(p);
    dmt_objstore_close(os);
}

static int mark_key(void *ctx, const char *key, uint64_t size)
{
    uint8_t *seen = ctx;
    assert_int_equal(strncmp(key, "list/", 5), 0);
    assert_int_equal(size, 1);
    seen[atoi(key + 5)]++;
    return 0;
}

static void listing_pages(void **state)
{
    (void)state;
    enum { N = 1005 }; /* a page has 1000 */
    struct dmt_objstore *os = open_direct();
    struct dmt_err err = {0};
    char key[32];
    uint8_t seen[N] = {0};
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof(key), "list/%d", i);
        ok(dmt_objstore_put(os, key, "x", 1, &err), &err);
    }
    ok(dmt_objstore_put(os, "lisp", "x", 1, &err), &err);
    ok(dmt_objstore_list(os, "list/", mark_key, seen, &err), &err);
    for (int i = 0; i < N; i++)
        assert_int_equal(seen[i], 1);
    dmt_objstore_close(os);
}

/* What somebody deleted in a bucket that keeps versions is not forgotten; one that does not answers
 * by what is there. The libs3 driver has no such question. */
static void versions_are_evidence(void **state)
{
    (void)state;
    struct dmt_objstore *os = open_direct();
    struct dmt_err err = {0};
    ok(dmt_objstore_put(os, "arb/solo/12", "x", 1, &err), &err);
    bool s3 = strcmp(g_scheme, "s3") == 0;
    assert_int_equal(dmt_objstore_versions(os, "arb/solo/12", &err), s3 ? 1 : -EOPNOTSUPP);
    assert_int_equal(dmt_objstore_versions(os, "arb/solo/1", &err), s3 ? 0 : -EOPNOTSUPP);
    assert_int_equal(dmt_objstore_versions(os, "arb/solo/13", &err), s3 ? 0 : -EOPNOTSUPP);
    dmt_objstore_close(os);
}

static void wrong_keys(void **state)
{
    (void)state;
    char secret[256];
    struct dmt_err err = {0};
    struct dmt_buf b;
    uint64_t size;
    snprintf(secret, sizeof(secret), "%s", getenv("AWS_SECRET_ACCESS_KEY"));
    setenv("AWS_SECRET_ACCESS_KEY", "not the secret", 1);
    struct dmt_objstore *os = open_direct();
    assert_int_equal(dmt_objstore_put(os, "k", "x", 1, &err), DMT_E_AUTH);
    assert_true(err.hint[0] && !strstr(err.msg, "not the secret"));
    dmt_buf_init(&b);
    assert_int_equal(dmt_objstore_get(os, "k", 0, 0, &b, &err), DMT_E_AUTH);
    dmt_buf_free(&b);
    assert_int_equal(dmt_objstore_head(os, "k", &size, &err), DMT_E_AUTH);
    /* An operator mends the keys: the running handle takes them at its next call. */
    setenv("AWS_SECRET_ACCESS_KEY", secret, 1);
    ok(dmt_objstore_put(os, "k", "x", 1, &err), &err);
    dmt_objstore_close(os);
}

static void wrong_bucket(void **state)
{
    (void)state;
    struct dmt_err err = {0};
    struct dmt_buf b;
    uint64_t size;
    struct dmt_objstore *os = open_at(getenv("RGW_ENDPOINT"), "no-such-bucket", NULL);
    assert_int_equal(dmt_objstore_put(os, "k", "x", 1, &err), DMT_E_CONFIG);
    dmt_buf_init(&b);
    assert_int_equal(dmt_objstore_get(os, "k", 0, 0, &b, &err), DMT_E_CONFIG);
    dmt_buf_free(&b);
    assert_int_equal(dmt_objstore_head(os, "k", &size, &err), DMT_E_CONFIG);
    assert_true(strstr(err.hint, "bucket") != NULL);
    dmt_objstore_close(os);
}

static void busy_server(void **state)
{
    (void)state;
    struct dmt_objstore *os = open_relay(20000);
    struct dmt_err err = {0};
    ok(dmt_objstore_put(os, "busy0", "x", 1, &err), &err);
    unsigned long before = relay_stat("connections"), answered = relay_stat("answered");
    relay_do("answer 503 3 ServiceUnavailable");
    ok(dmt_objstore_put(os, "busy1", "x", 1, &err), &err);
    assert_int_equal(relay_stat("answered") - answered, 3);
    if (!strcmp(g_scheme,
                "s3")) /* each repeat on a connection of its own: a full vault stays full */
        assert_true(relay_stat("connections") - before >= 3);
    relay_do("answer 500 1 InternalError");
    check_get(os, "busy1", (const uint8_t *)"x", 1);
    relay_do("answer 429 1 TooManyRequests");
    check_get(os, "busy1", (const uint8_t *)"x", 1);
    dmt_objstore_close(os);
}

static void not_implemented(void **state)
{
    (void)state;
    struct dmt_objstore *os = open_relay(20000);
    struct dmt_err err = {0};
    struct dmt_buf b;
    dmt_buf_init(&b);
    unsigned long before = relay_stat("answered");
    relay_do("answer 501 5 NotImplemented");
    assert_int_equal(dmt_objstore_get(os, "x", 0, 0, &b, &err), -EOPNOTSUPP);
    assert_int_equal(relay_stat("answered") - before, 1); /* asked once, not again */
    relay_do("pass");
    dmt_buf_free(&b);
    dmt_objstore_close(os);
}

static void cut_connections(void **state)
{
    (void)state;
    struct dmt_objstore *os = open_relay(20000);
    struct dmt_err err = {0};
    size_t n = 3u << 20;
    uint8_t *p = noise(n);
    relay_do("cut-up 1000000");
    ok(dmt_objstore_put(os, "cut1", p, n, &err), &err);
    check_get(os, "cut1", p, n);
    relay_do("cut-down 1000000");
    check_get(os, "cut1", p, n);
    relay_do("truncate 500000 2");
    check_get(os, "cut1", p, n);
    relay_do("cut");
    check_get(os, "cut1", p, n);
    free(p);
    dmt_objstore_close(os);
}

/* The PUT arrives and its answer is lost: success, and no endless repeats. (curl itself may repeat
 * once when it had reused a connection; the same bytes under the same key are harmless.) */
static void lost_answer(void **state)
{
    (void)state;
    struct dmt_objstore *os = open_relay(20000);
    struct dmt_err err = {0};
    size_t n = 1u << 20;
    uint8_t *p = noise(n);
    unsigned long before = relay_stat("up");
    relay_do("lose PUT 1");
    ok(dmt_objstore_put(os, "lost", p, n, &err), &err);
    assert_true(relay_stat("up") - before < 2 * n + n / 2);
    check_get(os, "lost", p, n);
    free(p);
    dmt_objstore_close(os);
}

static void *pass_later(void *arg)
{
    (void)arg;
    usleep(700000);
    relay_do("pass");
    return NULL;
}

static void server_away(void **state)
{
    (void)state;
    struct dmt_objstore *os = open_relay(600);
    struct dmt_err err = {0};
    pthread_t t;
    relay_do("refuse");
    assert_int_equal(dmt_objstore_put(os, "away", "x", 1, &err), DMT_E_RETRY);
    assert_int_equal(err.code, DMT_E_RETRY);
    dmt_objstore_close(os);
    os = open_relay(20000);
    relay_do("refuse");
    assert_int_equal(pthread_create(&t, NULL, pass_later, NULL), 0);
    ok(dmt_objstore_put(os, "away", "x", 1, &err), &err);
    pthread_join(t, NULL);
    dmt_objstore_close(os);
}

static void stalled_server(void **state)
{
    (void)state;
    if (!strcmp(g_scheme, "libs3")) {
        print_message("skipped: libs3 has a fixed stall time of 15 s\n");
        skip();
    }
    struct dmt_objstore *os = open_relay(20000);
    struct dmt_err err = {0};
    pthread_t t;
    relay_do("blackhole");
    assert_int_equal(pthread_create(&t, NULL, pass_later, NULL), 0);
    ok(dmt_objstore_put(os, "stall", "x", 1, &err), &err);
    pthread_join(t, NULL);
    /* Asked to stop, a call that waits for its next attempt ends soon. */
    atomic_bool stop = true;
    struct dmt_objstore_conf conf = {.retry_ms = 600000, .stop = &stop};
    dmt_objstore_close(os);
    os = open_at(getenv("RELAY_ENDPOINT"), getenv("RGW_BUCKET"), &conf);
    relay_do("refuse");
    assert_int_equal(dmt_objstore_put(os, "stall2", "x", 1, &err), DMT_E_RETRY);
    relay_do("pass");
    dmt_objstore_close(os);
}

static uint64_t two_hours_ahead(void *ctx)
{
    return dmt_clock_real()->realtime_ns(ctx) + 7200 * DMT_S;
}

static void clock_skew(void **state)
{
    (void)state;
    if (!strcmp(g_scheme, "libs3")) {
        print_message("skipped: libs3 dates its requests itself\n");
        skip();
    }
    struct dmt_clock clock = *dmt_clock_real();
    struct dmt_objstore_conf conf = {.clock = &clock};
    struct dmt_err err = {0};
    struct dmt_buf b;
    uint64_t size;
    clock.realtime_ns = two_hours_ahead;
    struct dmt_objstore *os = open_at(getenv("RGW_ENDPOINT"), getenv("RGW_BUCKET"), &conf);
    ok(dmt_objstore_put(os, "skew", "x", 1, &err), &err);
    dmt_objstore_close(os);
    dmt_buf_init(&b);
    os = open_at(getenv("RGW_ENDPOINT"), getenv("RGW_BUCKET"), &conf);
    ok(dmt_objstore_get(os, "skew", 0, 0, &b, &err), &err);
    dmt_buf_free(&b);
    dmt_objstore_close(os);
    os = open_at(getenv("RGW_ENDPOINT"), getenv("RGW_BUCKET"), &conf);
    assert_int_equal(dmt_objstore_head(os, "none", &size, &err),
                     -ENOENT); /* skew must not look like "absent" or worse */
    dmt_objstore_close(os);
}

static int run(const char *scheme)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(basic),
        cmocka_unit_test(listing_pages),
        cmocka_unit_test(versions_are_evidence),
        cmocka_unit_test(wrong_keys),
        cmocka_unit_test(wrong_bucket),
        cmocka_unit_test(busy_server),
        cmocka_unit_test(not_implemented),
        cmocka_unit_test(cut_connections),
        cmocka_unit_test(lost_answer),
        cmocka_unit_test(server_away),
        cmocka_unit_test(stalled_server),
        cmocka_unit_test(clock_skew),
    };
    g_scheme = scheme;
    snprintf(g_run, sizeof(g_run), "%s-%d", scheme, (int)getpid());
    return cmocka_run_group_tests_name(scheme, tests, NULL, NULL);
}

int main(void)
{
    if (!getenv("RGW_ENDPOINT") || !getenv("RELAY_CTL")) {
        print_message(
            "no S3 server in the environment: 50_archive_drivers.sh runs this with one\n");
        return 77;
    }
    return run("s3") + run("libs3");
}
