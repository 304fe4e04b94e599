/* s3_xml.h: the two XML answers of S3 that we read: errors and listings. Any thread; input is untrusted. */
#ifndef DMT_ARCHIVE_S3_XML_H
#define DMT_ARCHIVE_S3_XML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* <Error><Code>..</Code><Message>..</Message>: true when there is a Code. Texts are cut to the sizes. */
bool s3_xml_error(const void *p, size_t n, char code[64], char message[256]);

/* ListBucketResult of list-type=2 with encoding-type=url. fn per <Contents>; its non-zero return stops and is returned. token:
 * the next page's, or "". DMT_E_CORRUPT when it is no listing. */
int s3_xml_list(const void *p, size_t n, int (*fn)(void *ctx, const char *key, uint64_t size), void *ctx, char token[2048]);
/* ListVersionsResult: 1 when there is a Version or DeleteMarker of exactly this key (plain characters only), 0 when not,
 * DMT_E_CORRUPT when it is no such listing. */
int s3_xml_versions(const void *p, size_t n, const char *key);

#endif
