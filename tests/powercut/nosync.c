/* Preloaded into the negative control: whoever asks for durability is told that it is there. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>

int fsync(int fd) { (void)fd; return 0; }
int fdatasync(int fd) { (void)fd; return 0; }
int syncfs(int fd) { (void)fd; return 0; }
int sync_file_range(int fd, off_t offset, off_t count, unsigned int flags)
{
    (void)fd; (void)offset; (void)count; (void)flags;
    return 0;
}
