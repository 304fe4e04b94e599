/* test_archiver_server.c: the archiver against a real S3 server through a network that fails (see
 * test_s3_server.c for the environment). What must hold: the workspace never waits, nothing is
 * lost, the status says what is wrong and since when. */
#include "tests/unit/archive/fixture.h"
#include <sys/socket.h>
#include <sys/un.h>

static void relay_do(const char *cmd)
{
    char out[256];
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", getenv("RELAY_CTL"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
    assert_true(send(fd, cmd, strlen(cmd), 0) > 0);
    ssize_t n = recv(fd, out, sizeof(out) - 1, 0);
    assert_true(n > 0 && strncmp(out, "error", 5) != 0);
    close(fd);
}

/* A prefix of its own for each test. */
static void begin(struct fx *f, const char *scheme, const char *name)
{
    snprintf(f->url, sizeof(f->url), "%s://%s/%s-%d?endpoint=%s&tls=off", scheme,
             getenv("RGW_BUCKET"), name, (int)getpid(), getenv("RELAY_ENDPOINT"));
    relay_do("pass");
    fx_create(&f->a);
    fx_serve(&f->a, true);
    fx_archive(f, &f->a);
}

static struct dmt_archive_status status(struct fx *f)
{
    struct dmt_archive_status s;
    dmt_archiver_status(f->a.ar, &s);
    return s;
}

static void finish(struct fx *f)
{
    char digest[65];
    relay_do("pass");
    fx_flush(&f->a);
    fx_digest(f->a.ws, digest);
    fx_restore_equal(f, 0, digest);
    assert_int_equal(status(f).error_since_ns, 0);
}

static uint64_t ms_since(uint64_t t0)
{
    return (dmt_clock_real()->monotonic_ns(NULL) - t0) / DMT_MS;
}

static void there_and_back(void **state)
{
    struct fx *f = *state;
    begin(f, "s3", "plain");
    fx_work(&f->a, 1, 30);
    fx_big(&f->a, "big", 20u << 20, 1);
    finish(f);
}

static void there_and_back_libs3(void **state)
{
    struct fx *f = *state;
    begin(f, "libs3", "libs3");
    fx_work(&f->a, 1, 10);
    fx_big(&f->a, "big", 5u << 20, 1);
    finish(f);
}

static void wrong_keys_then_right(void **state)
{
    struct fx *f = *state;
    char secret[256];
    snprintf(secret, sizeof(secret), "%s", getenv("AWS_SECRET_ACCESS_KEY"));
    setenv("AWS_SECRET_ACCESS_KEY", "wrong", 1);
    begin(f, "s3", "keys");
    fx_work(&f->a, 1, 5);
    fx_sync(&f->a);
    FX_WAIT(status(f).error_since_ns);
    assert_non_null(strstr(status(f).last_error, "403"));
    assert_int_equal(atomic_load(&f->a.archived), 0);
    setenv("AWS_SECRET_ACCESS_KEY", secret, 1);
    finish(f);
}

static void busy_and_cut(void **state)
{
    struct fx *f = *state;
    begin(f, "s3", "busy");
    fx_flush(&f->a);
    static const char *const fault[] = {
        "answer 503 4 SlowDown",      "cut-up 300000", "cut-down 200", "lose PUT 1",
        "answer 500 2 InternalError", "cut",           "truncate 20 2"};
    for (size_t i = 0; i < sizeof(fault) / sizeof(fault[0]); i++) {
        char name[16];
        relay_do(fault[i]);
        fx_work(&f->a, 10 + i, 10);
        snprintf(name, sizeof(name), "big%zu", i);
        fx_big(&f->a, name, 3u << 20, i);
        fx_flush(&f->a);
    }
    finish(f);
}

static void server_away_for_a_while(void **state)
{
    struct fx *f = *state;
    begin(f, "s3", "away");
    fx_work(&f->a, 1, 5);
    uint64_t before = fx_flush(&f->a);
    relay_do("refuse");
    uint64_t t0 = dmt_clock_real()->monotonic_ns(NULL), worst = 0;
    for (int i = 0; i < 30; i++) {
        uint64_t t = dmt_clock_real()->monotonic_ns(NULL);
        fx_work(&f->a, 100 + (uint64_t)i, 5);
        fx_sync(&f->a);
        uint64_t ms = ms_since(t);
        worst = ms > worst ? ms : worst;
    }
    print_message("30 rounds of 5 x 9 operations and a sync while the server was away: %llu ms, "
                  "worst %llu ms\n",
                  (unsigned long long)ms_since(t0), (unsigned long long)worst);
    FX_WAIT(status(f).error_since_ns && status(f).pending_bytes > 30 * 5 * 9000);
    assert_int_equal(status(f).archived_seq, before);
    assert_true(worst < 3000); /* a call's own patience with the server is 3 s: none of it may reach
                                  the workspace */
    finish(f);
}

/* The server accepts and says nothing: stop does not wait for it, and the next start loses nothing.
 */
static void stop_does_not_wait(void **state)
{
    struct fx *f = *state;
    begin(f, "s3", "silent");
    fx_work(&f->a, 1, 5);
    fx_flush(&f->a);
    relay_do("blackhole");
    fx_work(&f->a, 2, 5);
    fx_sync(&f->a);
    dmt_archiver_flush(f->a.ar);
    usleep(200000); /* into the call; were it not yet there, stop would only be quicker */
    uint64_t t0 = dmt_clock_real()->monotonic_ns(NULL);
    fx_archive_stop(&f->a);
    assert_true(ms_since(t0) < 2500);
    relay_do("pass");
    fx_archive(f, &f->a);
    finish(f);
}

int main(void)
{
    if (!getenv("RGW_ENDPOINT") || !getenv("RELAY_CTL")) {
        print_message("no S3 server in the environment: 50_archive_faults.sh runs this with one\n");
        return 77;
    }
#define T(name) cmocka_unit_test_setup_teardown(name, fx_setup, fx_teardown)
    const struct CMUnitTest tests[] = {
        T(there_and_back), T(there_and_back_libs3),    T(wrong_keys_then_right),
        T(busy_and_cut),   T(server_away_for_a_while), T(stop_does_not_wait),
    };
    return cmocka_run_group_tests_name("archive: archiver and a real server", tests, NULL, NULL);
}
