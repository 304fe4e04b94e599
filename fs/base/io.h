/* io.h: the disk seam. Every byte that journal and data files write, every fsync and rename goes through this table, so that a
 * test twin can count, fail, tear or drop it. Real twin: dmt_io_real(). All methods are required; they return >= 0 or
 * -errno and never short counts (pread excepted, at end of file). Any thread; the twin locks for itself. Paths are absolute. */
#ifndef DMT_BASE_IO_H
#define DMT_BASE_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

struct dmt_io {
    void *ctx;
    int (*open)(void *ctx, const char *path, int flags, mode_t mode); /* fd; O_CLOEXEC is added */
    int (*close)(void *ctx, int fd);
    ssize_t (*pread)(void *ctx, int fd, void *buf, size_t len, uint64_t off);
    ssize_t (*pwrite)(void *ctx, int fd, const void *buf, size_t len, uint64_t off);
    ssize_t (*pwritev)(void *ctx, int fd, const struct iovec *iov, int n, uint64_t off);
    int (*fdatasync)(void *ctx, int fd);
    int (*fsync)(void *ctx, int fd);
    int (*ftruncate)(void *ctx, int fd, uint64_t len);
    int (*fallocate)(void *ctx, int fd, int mode, uint64_t off, uint64_t len);
    int (*fstat)(void *ctx, int fd, struct stat *st);
    int (*rename)(void *ctx, const char *from, const char *to);
    int (*unlink)(void *ctx, const char *path);
    int (*mkdir)(void *ctx, const char *path, mode_t mode);
    int (*sync_dir)(void *ctx, const char *path); /* fsync of a directory, by path */
    /* As pwrite, for long ones: the bytes are on their way to the disk when it returns. keep: they stay in the page cache, for
     * who reads them from here soon; else they do not. Like pwrite it survives the end of the process, not of the machine. */
    ssize_t (*pwrite_long)(void *ctx, int fd, const void *buf, size_t len, uint64_t off, bool keep);
};
const struct dmt_io *dmt_io_real(void);

/* Whole small files through the seam: read (caller frees *ret_buf; NUL added after len), and replace by temp file + fsync +
 * rename + sync_dir. size_max: larger files are -EFBIG. */
int dmt_io_read_file(const struct dmt_io *io, const char *path, size_t size_max, char **ret_buf, size_t *ret_len);
int dmt_io_write_file(const struct dmt_io *io, const char *path, const void *buf, size_t len, mode_t mode);
/* mkdir -p for the last components; existing directories are fine. */
int dmt_io_mkdirs(const struct dmt_io *io, const char *path, mode_t mode);

#endif
