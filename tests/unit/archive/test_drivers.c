/* test_drivers.c: the object store drivers without a server: Signature V4 against AWS's published
 * examples, the retry table, S3's XML, URLs, credentials, and the directory driver for real. The
 * network drivers meet a real server in test_s3_server.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/archive/objstore_int.h"
#include "fs/archive/s3.h"
#include "fs/archive/s3_xml.h"
#include "fs/archive/sigv4.h"

#define EMPTY_SHA "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static int rm_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st;
    (void)flag;
    (void)f;
    return remove(path);
}

static int setup(void **state)
{
    char tmpl[] = "/var/tmp/dumont-archive.XXXXXX";
    unsetenv("AWS_ACCESS_KEY_ID");
    unsetenv("AWS_SECRET_ACCESS_KEY");
    unsetenv("AWS_SESSION_TOKEN");
    *state = mkdtemp(tmpl) ? strdup(tmpl) : NULL;
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    nftw(*state, rm_one, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return 0;
}

/* --- Signature V4 */

static void check_sig(const struct sigv4_req *q, const char *names, const char *sig)
{
    char auth[1024], want[256];
    assert_int_equal(sigv4_authorization(q, auth, sizeof(auth)), 0);
    snprintf(want, sizeof(want), "SignedHeaders=%s,Signature=%s", names, sig);
    assert_non_null(strstr(auth, want));
}

/* The examples of "Signature Calculations for the Authorization Header" in the S3 API reference. */
static void sigv4_s3_examples(void **state)
{
    (void)state;
    struct sigv4_header h[5] = {{"Host", "examplebucket.s3.amazonaws.com"},
                                {"x-amz-content-sha256", EMPTY_SHA},
                                {"x-amz-date", "20130524T000000Z"},
                                {"Range", "bytes=0-9"}};
    struct sigv4_req q = {.access = "AKIAIOSFODNN7EXAMPLE",
                          .secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                          .region = "us-east-1",
                          .service = "s3",
                          .amz_date = "20130524T000000Z",
                          .method = "GET",
                          .path = "/test.txt",
                          .query = "",
                          .headers = h,
                          .n_headers = 4,
                          .payload_sha256 = EMPTY_SHA};
    check_sig(&q, "host;range;x-amz-content-sha256;x-amz-date",
              "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");

    q.n_headers = 3;
    q.path = "/";
    q.query = "lifecycle=";
    check_sig(&q, "host;x-amz-content-sha256;x-amz-date",
              "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
    q.query = "max-keys=2&prefix=J";
    check_sig(&q, "host;x-amz-content-sha256;x-amz-date",
              "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");

    static const char put_sha[] =
        "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    char sha[65];
    sigv4_sha256_hex("Welcome to Amazon S3.", 21, sha);
    assert_string_equal(sha, put_sha);
    h[1].value = put_sha;
    h[3] = (struct sigv4_header){"Date", "Fri, 24 May 2013 00:00:00 GMT"};
    h[4] = (struct sigv4_header){"x-amz-storage-class", "REDUCED_REDUNDANCY"};
    q.n_headers = 5;
    q.method = "PUT";
    q.path = "/test%24file.text";
    q.query = "";
    q.payload_sha256 = put_sha;
    check_sig(&q, "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
              "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

/* get-vanilla and get-header-value-trim of AWS's signature test suite. */
static void sigv4_suite(void **state)
{
    (void)state;
    struct sigv4_header h[4] = {{"Host", "example.amazonaws.com"},
                                {"X-Amz-Date", "20150830T123600Z"}};
    struct sigv4_req q = {.access = "AKIDEXAMPLE",
                          .secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
                          .region = "us-east-1",
                          .service = "service",
                          .amz_date = "20150830T123600Z",
                          .method = "GET",
                          .path = "/",
                          .query = "",
                          .headers = h,
                          .n_headers = 2,
                          .payload_sha256 = EMPTY_SHA};
    check_sig(&q, "host;x-amz-date",
              "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
    h[1] = (struct sigv4_header){"My-Header1", " value1"};
    h[2] = (struct sigv4_header){"My-Header2", " \"a   b   c\""};
    h[3] = (struct sigv4_header){"X-Amz-Date", "20150830T123600Z"};
    q.n_headers = 4;
    check_sig(&q, "host;my-header1;my-header2;x-amz-date",
              "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736");
}

static void sigv4_bounds(void **state)
{
    (void)state;
    struct sigv4_header h[SIGV4_HEADERS_MAX + 1];
    char auth[1024], small[20];
    for (size_t i = 0; i <= SIGV4_HEADERS_MAX; i++)
        h[i] = (struct sigv4_header){"a", "b"};
    struct sigv4_req q = {.access = "a",
                          .secret = "s",
                          .region = "r",
                          .service = "s3",
                          .amz_date = "20150830T123600Z",
                          .method = "GET",
                          .path = "/",
                          .query = "",
                          .headers = h,
                          .n_headers = SIGV4_HEADERS_MAX + 1,
                          .payload_sha256 = EMPTY_SHA};
    assert_int_equal(sigv4_authorization(&q, auth, sizeof(auth)), -EINVAL);
    q.n_headers = 1;
    assert_int_equal(sigv4_authorization(&q, small, sizeof(small)), -EINVAL);
    q.amz_date = "2015";
    assert_int_equal(sigv4_authorization(&q, auth, sizeof(auth)), -EINVAL);
}

static void percent_encoding(void **state)
{
    (void)state;
    struct dmt_buf b;
    dmt_buf_init(&b);
    sigv4_encode(&b, "a/b c+~\xc3\xa9", 1);
    dmt_put_u8(&b, 0);
    assert_string_equal((char *)b.p, "a/b%20c%2B~%C3%A9");
    dmt_buf_reset(&b);
    sigv4_encode(&b, "a/b", 0);
    dmt_put_u8(&b, 0);
    assert_string_equal((char *)b.p, "a%2Fb");
    dmt_buf_free(&b);
}

/* --- the retry table */

static void retry_table(void **state)
{
    (void)state;
    static const struct {
        long status;
        const char *code;
        enum s3_verdict verdict;
        int err;
    } t[] = {
        {200, "", S3_OK, 0},
        {204, "", S3_OK, 0},
        {206, "", S3_OK, 0},
        {404, "NoSuchKey", S3_ABSENT, 0},
        {404, "", S3_ABSENT, 0},
        {404, "NoSuchBucket", S3_CONFIG, 0},
        {404, "SomethingElse", S3_CONFIG, 0},
        {403, "AccessDenied", S3_AUTH, 0},
        {403, "SignatureDoesNotMatch", S3_AUTH, 0},
        {403, "", S3_AUTH, 0},
        {403, "RequestTimeTooSkewed", S3_SKEW, 0},
        {401, "", S3_AUTH, 0},
        {408, "", S3_RETRY, 0},
        {429, "", S3_RETRY, 0},
        {500, "InternalError", S3_RETRY, 0},
        {502, "", S3_RETRY, 0},
        {503, "SlowDown", S3_RETRY, 0},
        {503, "ServiceUnavailable", S3_RETRY, 0},
        {504, "", S3_RETRY, 0},
        {409, "ConditionalRequestConflict", S3_RETRY, 0},
        {409, "BucketNotEmpty", S3_FINAL, -EINVAL},
        {400, "RequestTimeout", S3_RETRY, 0},
        {400, "IncompleteBody", S3_RETRY, 0},
        {400, "InvalidArgument", S3_FINAL, -EINVAL},
        {400, "AuthorizationHeaderMalformed", S3_CONFIG, 0},
        {405, "MethodNotAllowed", S3_FINAL, -EINVAL},
        {412, "PreconditionFailed", S3_FINAL, -EEXIST},
        {416, "InvalidRange", S3_PAST_END, 0},
        {501, "NotImplemented", S3_FINAL, -EOPNOTSUPP},
        {301, "PermanentRedirect", S3_CONFIG, 0},
    };
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        int err = 0;
        enum s3_verdict v = s3_classify(t[i].status, t[i].code, &err);
        if (v != t[i].verdict || (v == S3_FINAL && err != t[i].err))
            fail_msg("%ld %s: verdict %d err %d", t[i].status, t[i].code, v, err);
    }
}

/* --- XML */

static int collect(void *ctx, const char *key, uint64_t size)
{
    char *all = ctx;
    snprintf(all + strlen(all), 512 - strlen(all), "%s=%llu;", key, (unsigned long long)size);
    return 0;
}

static void xml_error(void **state)
{
    (void)state;
    static const char e[] =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code>"
        "<Message>a &lt;b&gt; &amp; &#39;c&#x27;</Message></Error>";
    char code[64], msg[256];
    assert_true(s3_xml_error(e, sizeof(e) - 1, code, msg));
    assert_string_equal(code, "NoSuchKey");
    assert_string_equal(msg, "a <b> & 'c'");
    for (size_t n = 0; n < sizeof(e) - 1;
         n++) { /* every cut, in a buffer of its own for the sanitizer */
        char *cut = malloc(n + 1);
        memcpy(cut, e, n);
        assert_false(s3_xml_error(cut, n, code, msg) && n < 60);
        free(cut);
    }
    assert_false(s3_xml_error("<html>404</html>", 16, code, msg));
    assert_false(s3_xml_error("<Error><Code/></Error>", 22, code, msg));
}

static void xml_versions(void **state)
{
    (void)state;
    static const char l[] =
        "<?xml version=\"1.0\"?><ListVersionsResult><Name>b</Name><Prefix>solo/1</Prefix>"
        "<VersionIdMarker></VersionIdMarker><Version><Key>solo/12</Key><VersionId>v</VersionId>"
        "</Version><DeleteMarker><Key>solo/1</Key><VersionId>w</VersionId></DeleteMarker>"
        "</ListVersionsResult>";
    assert_int_equal(s3_xml_versions(l, sizeof(l) - 1, "solo/12"), 1);
    assert_int_equal(s3_xml_versions(l, sizeof(l) - 1, "solo/1"), 1); /* hidden, but it was there */
    assert_int_equal(s3_xml_versions(l, sizeof(l) - 1, "solo/123"), 0);
    assert_int_equal(s3_xml_versions(l, 40, "solo/1"), DMT_E_CORRUPT);
    assert_int_equal(s3_xml_versions("", 0, "solo/1"), DMT_E_CORRUPT);
}

static void xml_list(void **state)
{
    (void)state;
    static const char l[] =
        "<?xml version=\"1.0\"?><ListBucketResult "
        "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>"
        "<IsTruncated>true</IsTruncated><Contents><Key>p/a%20b%2Fc</Key><LastModified>x</"
        "LastModified><Size>12</Size>"
        "</Contents><Contents><Key>p/x+y&amp;z</Key><Size>0</Size></Contents>"
        "<NextContinuationToken>1/tok==</NextContinuationToken></ListBucketResult>";
    char all[512] = "", token[2048];
    assert_int_equal(s3_xml_list(l, sizeof(l) - 1, collect, all, token), 0);
    assert_string_equal(all, "p/a b/c=12;p/x y&z=0;");
    assert_string_equal(token, "1/tok==");
    for (size_t n = 0; n < sizeof(l) - 1; n++) {
        char *cut = malloc(n + 1);
        memcpy(cut, l, n);
        all[0] = 0;
        assert_int_equal(s3_xml_list(cut, n, collect, all, token), DMT_E_CORRUPT);
        free(cut);
    }
}

/* --- URLs and keys */

static void urls(void **state)
{
    (void)state;
    struct objstore_url u;
    assert_int_equal(objstore_url_parse("file:///a/b/", &u, NULL), 0);
    assert_string_equal(u.path, "/a/b");
    assert_int_equal(
        objstore_url_parse("s3://buck/p/q/?endpoint=s3.eu-central-003.backblazeb2.com", &u, NULL),
        0);
    assert_string_equal(u.bucket, "buck");
    assert_string_equal(u.prefix, "p/q/");
    assert_string_equal(u.region, "eu-central-003");
    assert_true(u.tls);
    assert_int_equal(
        objstore_url_parse("s3://buck?endpoint=1.2.3.4:80&tls=off&region=xx", &u, NULL), 0);
    assert_string_equal(u.prefix, "");
    assert_string_equal(u.region, "xx");
    assert_false(u.tls);
    assert_int_equal(objstore_url_parse("s3://buck?endpoint=0a.r2.cloudflarestorage.com", &u, NULL),
                     0);
    assert_string_equal(u.region, "auto");
    static const char *const bad[] = {"",
                                      "buck",
                                      "http://x/y",
                                      "file://relative",
                                      "s3://buck",
                                      "s3://b?endpoint=x",
                                      "s3://buck?endpoint=https://x",
                                      "s3://buck?endpoint=x&tls=maybe",
                                      "s3://buck?endpoint=x&colour=red",
                                      "s3://buck/a b?endpoint=x"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct dmt_err err = {0};
        assert_int_equal(objstore_url_parse(bad[i], &u, &err), DMT_E_CONFIG);
        assert_true(err.msg[0] && err.hint[0]);
    }
}

static void keys_checked(void **state)
{
    char url[256];
    struct dmt_objstore *os;
    snprintf(url, sizeof(url), "file://%s/arch", (char *)*state);
    assert_int_equal(dmt_objstore_open(&os, url, NULL, NULL), 0);
    static const char *const bad[] = {"",       "/a",  "a/",  "a//b", "..",
                                      "a/../b", "./a", "a b", "a%2e", "a\\b"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(dmt_objstore_put(os, bad[i], "x", 1, NULL), -EINVAL);
    dmt_objstore_close(os);
}

/* --- credentials */

static void write_text(const char *path, const char *text, mode_t mode)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void credentials(void **state)
{
    char path[256];
    struct objstore_keys k;
    struct dmt_err err = {0};
    snprintf(path, sizeof(path), "%s/credentials", (char *)*state);
    assert_int_equal(objstore_keys_load(path, "b", &k, &err), DMT_E_AUTH);
    assert_true(strstr(err.hint, path) != NULL);
    write_text(
        path,
        "# c\n[other]\naccess_key=o\nsecret_key = p\n\n[b]\n access_key = x \nsecret_key=y=z\n",
        0600);
    assert_int_equal(objstore_keys_load(path, "b", &k, NULL), 0);
    assert_string_equal(k.access, "x");
    assert_string_equal(k.secret, "y=z");
    assert_int_equal(objstore_keys_load(path, "c", &k, NULL), DMT_E_AUTH);
    write_text(path, "access_key=h\nsecret_key=i\n[b]\naccess_key=x\n", 0600);
    assert_int_equal(objstore_keys_load(path, "c", &k, NULL), 0);
    assert_string_equal(k.access, "h");
    assert_int_equal(objstore_keys_load(path, "b", &k, NULL),
                     DMT_E_AUTH); /* half a section is not completed */
    write_text(path, "access_key=h\nsecret_key=i\n", 0640);
    assert_int_equal(objstore_keys_load(path, "c", &k, &err), DMT_E_CONFIG);
    assert_true(strstr(err.hint, "chmod 600") != NULL);
    write_text(path, "access=h\n", 0600);
    assert_int_equal(objstore_keys_load(path, "c", &k, NULL), DMT_E_CONFIG);
    setenv("AWS_ACCESS_KEY_ID", "ea", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "es", 1);
    assert_int_equal(objstore_keys_load(path, "c", &k, NULL), 0);
    assert_string_equal(k.access, "ea");
    assert_string_equal(k.secret, "es");
}

/* --- the directory driver */

static int count_key(void *ctx, const char *key, uint64_t size)
{
    (void)size;
    assert_null(strstr(key, "tmp"));
    ++*(int *)ctx;
    return 0;
}

static void file_driver(void **state)
{
    char url[256], path[300];
    struct dmt_objstore *os;
    struct dmt_err err = {0};
    struct dmt_buf b;
    uint64_t size;
    int n = 0;
    snprintf(url, sizeof(url), "file://%s/arch", (char *)*state);
    assert_int_equal(dmt_objstore_open(&os, url, NULL, NULL), 0);
    assert_int_equal(dmt_objstore_head(os, "log/a/1", &size, NULL), -ENOENT);
    assert_int_equal(dmt_objstore_put(os, "log/a/1", "hello", 5, &err), 0);
    assert_int_equal(dmt_objstore_put(os, "log/a/1", "hello", 5, &err),
                     0); /* a repeat is success */
    assert_int_equal(dmt_objstore_put(os, "log/a/1", "hellO", 5, &err), -EEXIST);
    assert_int_equal(dmt_objstore_put(os, "log/a/1", "hell", 4, &err), -EEXIST);
    assert_int_equal(dmt_objstore_put(os, "log/b/empty", "", 0, &err), 0);
    assert_int_equal(dmt_objstore_head(os, "log/a/1", &size, NULL), 0);
    assert_int_equal(size, 5);
    assert_int_equal(dmt_objstore_head(os, "log/a/2", &size, NULL), -ENOENT);
    dmt_buf_init(&b);
    assert_int_equal(dmt_objstore_get(os, "log/a/1", 0, 0, &b, NULL), 0);
    assert_true(b.len == 5 && !memcmp(b.p, "hello", 5));
    dmt_buf_reset(&b);
    assert_int_equal(dmt_objstore_get(os, "log/a/1", 1, 3, &b, NULL), 0);
    assert_true(b.len == 3 && !memcmp(b.p, "ell", 3));
    dmt_buf_reset(&b);
    assert_int_equal(dmt_objstore_get(os, "log/a/1", 4, 100, &b, NULL), 0);
    assert_int_equal(b.len, 1);
    dmt_buf_reset(&b);
    assert_int_equal(dmt_objstore_get(os, "log/a/1", 9, 1, &b, NULL), 0);
    assert_int_equal(b.len, 0);
    assert_int_equal(dmt_objstore_get(os, "log/zz", 0, 0, &b, NULL), -ENOENT);
    dmt_buf_free(&b);
    snprintf(path, sizeof(path), "%s/arch/log/a/.x.tmp", (char *)*state);
    write_text(path, "left over", 0600);
    assert_int_equal(dmt_objstore_list(os, "log/", count_key, &n, NULL), 0);
    assert_int_equal(n, 2);
    n = 0;
    assert_int_equal(dmt_objstore_list(os, "log/a", count_key, &n, NULL), 0);
    assert_int_equal(n, 1);
    assert_int_equal(dmt_objstore_delete(os, "log/a/1", NULL), 0);
    assert_int_equal(dmt_objstore_delete(os, "log/a/1", NULL), 0);
    assert_int_equal(dmt_objstore_head(os, "log/a/1", &size, NULL), -ENOENT);
    dmt_objstore_close(os);
    /* The parents of the archive directory are never created, and an archive whose place is missing
     * is no empty archive: its disk may not be mounted. */
    snprintf(url, sizeof(url), "file://%s/not/mounted", (char *)*state);
    assert_int_equal(dmt_objstore_open(&os, url, NULL, NULL), 0);
    assert_int_equal(dmt_objstore_head(os, "a", &size, NULL), DMT_E_CONFIG);
    assert_int_equal(dmt_objstore_put(os, "a", "x", 1, &err), DMT_E_CONFIG);
    assert_non_null(strstr(err.hint, "disk mounted?"));
    dmt_objstore_close(os);
}

/* An io twin whose fsync fails at the given call: nothing may appear under the object's name. */
static int g_fail_in;
static int fsync_fails(void *ctx, int fd)
{
    return --g_fail_in == 0 ? -EIO : dmt_io_real()->fsync(ctx, fd);
}

static void file_driver_faults(void **state)
{
    char url[256];
    struct dmt_io io = *dmt_io_real();
    struct dmt_objstore_conf conf = {.io = &io};
    struct dmt_objstore *os;
    uint64_t size;
    io.fsync = fsync_fails;
    snprintf(url, sizeof(url), "file://%s/arch", (char *)*state);
    assert_int_equal(dmt_objstore_open(&os, url, &conf, NULL), 0);
    g_fail_in = 1;
    assert_int_equal(dmt_objstore_put(os, "a/b", "x", 1, NULL), -EIO);
    assert_int_equal(dmt_objstore_head(os, "a/b", &size, NULL), -ENOENT);
    assert_int_equal(dmt_objstore_put(os, "a/b", "x", 1, NULL), 0);
    dmt_objstore_close(os);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sigv4_s3_examples),
        cmocka_unit_test(sigv4_suite),
        cmocka_unit_test(sigv4_bounds),
        cmocka_unit_test(percent_encoding),
        cmocka_unit_test(retry_table),
        cmocka_unit_test(xml_error),
        cmocka_unit_test(xml_list),
        cmocka_unit_test(xml_versions),
        cmocka_unit_test(urls),
        cmocka_unit_test_setup_teardown(keys_checked, setup, teardown),
        cmocka_unit_test_setup_teardown(credentials, setup, teardown),
        cmocka_unit_test_setup_teardown(file_driver, setup, teardown),
        cmocka_unit_test_setup_teardown(file_driver_faults, setup, teardown),
    };
    return cmocka_run_group_tests_name("archive: drivers", tests, NULL, NULL);
}
