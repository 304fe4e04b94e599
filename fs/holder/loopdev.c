/* loopdev.c: the block device that makes sync(2) reach a FUSE server.
 *
 * The kernel passes syncfs, and waits for DESTROY at umount, only for FUSE mounts on a block device
 * (storage A1). So there is a loop device of 1 MiB that holds nothing and is never read or written:
 * RUN/dev/NAME.img behind /dev/loopN, with AUTOCLEAR, so that the kernel frees it with the last
 * user however the holder ends. RUN/dev/NAME is a symlink, not a node, because /run is usually
 * mounted nodev; it is the source that findmnt shows.
 *
 * Failure: no loop devices (containers), no right to make one: told to the caller, who mounts
 * plainly and says so. Thread: the holder's only one.
 */
#include "fs/holder/internal.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/base/io.h"
#include "fs/base/options.h"

#define LOOP_BYTES     (1 << 20)
#define LOOP_TRIES_MAX 32

static int open_image(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, LOOP_BYTES) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

/* Binds the image to a free device. GET_FREE only proposes: another process may take the same
 * number first. */
static int bind_free(struct holder_loop *l, int image_fd)
{
    int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int rc = -EBUSY;
    if (ctl < 0)
        return -errno;
    for (int i = 0; i < LOOP_TRIES_MAX && rc == -EBUSY; i++) {
        struct loop_config conf = {.fd = (uint32_t)image_fd, .block_size = 4096};
        int number = ioctl(ctl, LOOP_CTL_GET_FREE);
        if (number < 0) {
            rc = -errno;
            break;
        }
        (void)snprintf(l->dev, sizeof(l->dev), "/dev/loop%d", number);
        l->fd = open(l->dev, O_RDWR | O_CLOEXEC);
        if (l->fd < 0) {
            rc = -errno;
            break;
        }
        conf.info.lo_flags = LO_FLAGS_AUTOCLEAR;
        rc = ioctl(l->fd, LOOP_CONFIGURE, &conf) < 0 ? -errno : 0;
        if (rc < 0) {
            close(l->fd);
            l->fd = -1;
        }
    }
    close(ctl);
    return rc;
}

int holder_loop_open(struct holder_loop *l, const char *name, struct dmt_err *err)
{
    char dir[400];
    int image_fd, rc;

    memset(l, 0, sizeof(*l));
    l->fd = -1;
    (void)snprintf(dir, sizeof(dir), "%s/dev", dmt_dir_run());
    (void)snprintf(l->image, sizeof(l->image), "%s/%s.img", dir, name);
    (void)snprintf(l->link, sizeof(l->link), "%s/%s", dir, name);
    rc = dmt_io_mkdirs(dmt_io_real(), dir, 0755);
    if (rc < 0)
        return dmt_err_set(err, rc, "cannot make %s: %s", dir, dmt_strerror(rc));
    image_fd = open_image(l->image);
    if (image_fd < 0)
        return dmt_err_set(err, image_fd, "cannot make %s: %s", l->image, dmt_strerror(image_fd));
    rc = bind_free(l, image_fd);
    close(image_fd);
    if (rc < 0) {
        (void)unlink(l->image);
        return dmt_err_set(err, rc, "cannot set up a loop device: %s", dmt_strerror(rc));
    }
    (void)unlink(l->link);
    if (symlink(l->dev, l->link) < 0) {
        rc = -errno;
        holder_loop_close(l, true);
        return dmt_err_set(err, rc, "cannot make %s: %s", l->link, dmt_strerror(rc));
    }
    return 0;
}

void holder_loop_close(struct holder_loop *l, bool gone)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    if (gone && l->image[0]) {
        (void)unlink(l->link);
        (void)unlink(l->image);
        l->image[0] = l->link[0] = '\0';
    }
}
