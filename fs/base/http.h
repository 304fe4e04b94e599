/* http.h: HTTP client over libcurl (one easy handle per struct, connection reuse inside). Blocking: pool threads only,
 * never the loop. Used by the S3 driver, the CLI (Unix sockets too) and providers. */
#ifndef DMT_BASE_HTTP_H
#define DMT_BASE_HTTP_H

#include <stddef.h>
#include <stdint.h>
#include "fs/base/bytes.h"
#include "fs/base/err.h"

struct dmt_http;
struct dmt_http_req {
    const char *method;       /* "GET" ... */
    const char *url;          /* already encoded; used as is (PATH_AS_IS) */
    const char *unix_socket;  /* path, or NULL */
    const char *const *headers; /* "Name: value" lines, NULL-terminated; may be NULL. "Expect" is never sent */
    const void *body;         /* may be NULL */
    size_t body_len;
    uint64_t response_max;    /* larger bodies fail with -EFBIG */
    long connect_timeout_ms;  /* 0 = 10 s */
    long stall_timeout_s;     /* less than 1 KiB/s for so long = -ETIMEDOUT; 0 = 30 s */
    int fresh;                /* new connection for this request, closed after it */
    const char *ca_file;      /* PEM for https, or NULL for the system's */
};
struct dmt_http_res {
    long status;              /* HTTP status */
    struct dmt_buf body;      /* caller frees with dmt_buf_free */
    char etag[128];           /* without quotes */
    char date[64];            /* Date header */
    long retry_after_s;       /* 0 if absent */
    int64_t content_length;   /* -1 if absent; of HEAD too */
};
struct dmt_http *dmt_http_new(void);
void dmt_http_free(struct dmt_http *h);
/* 0 when a response arrived whole (any status), else -errno with err set. */
int dmt_http_do(struct dmt_http *h, const struct dmt_http_req *req, struct dmt_http_res *res, struct dmt_err *err);

#endif
