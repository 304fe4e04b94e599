/* s3.h: what an S3 answer means; apart from s3.c so that the retry table can be tested as a table. Any thread. */
#ifndef DMT_ARCHIVE_S3_H
#define DMT_ARCHIVE_S3_H

enum s3_verdict {
    S3_OK,
    S3_ABSENT,   /* 404 NoSuchKey, or a 404 without a body (HEAD) */
    S3_PAST_END, /* 416 */
    S3_RETRY,    /* temporary: wait, then on a new connection (B2's full vaults want that) */
    S3_SKEW,     /* our clock is off: learn the offset from the Date header, once */
    S3_AUTH,
    S3_CONFIG, /* wrong bucket, region or endpoint */
    S3_FINAL   /* any other refusal; *code says which errno */
};

/* status: HTTP; xml_code: the <Code> of the body, "" if none. *code: the error number for S3_FINAL. */
enum s3_verdict s3_classify(long status, const char *xml_code, int *code);

#endif
