/* sigv4.h: AWS Signature Version 4, the signing alone: no network, no state, no clock. Any thread. */
#ifndef DMT_ARCHIVE_SIGV4_H
#define DMT_ARCHIVE_SIGV4_H

#include <stddef.h>
#include <stdint.h>
#include "fs/base/bytes.h"

#define SIGV4_HEADERS_MAX 16

struct sigv4_header {
    const char *name;  /* any case */
    const char *value; /* signed trimmed, inner runs of blanks collapsed */
};

struct sigv4_req {
    const char *access, *secret, *region, *service; /* service: "s3" */
    const char *amz_date;                           /* YYYYMMDDThhmmssZ */
    const char *method;
    const char *path;  /* as sent: percent-encoded once, begins with '/' */
    const char *query; /* as sent, without '?': encoded, sorted, '=' for empty values; "" for none */
    const struct sigv4_header *headers;
    size_t n_headers;           /* all that are to be signed; host and x-amz-date must be among them */
    const char *payload_sha256; /* 64 hex digits */
};

/* Value of the Authorization header. 0, -EINVAL (too many headers), -ENOMEM. */
int sigv4_authorization(const struct sigv4_req *q, char *ret, size_t size);

void sigv4_sha256_hex(const void *p, size_t n, char ret[65]);
/* Appends s percent-encoded: unreserved characters stay, and '/' when keep_slash. */
void sigv4_encode(struct dmt_buf *out, const char *s, int keep_slash);

#endif
