/* A library to preload that watches, fails or ends a process at a chosen file operation.

   It looks at operations on what lies below $FILE_OPERATIONS_ROOT (an absolute path) and appends
   each to $FILE_OPERATIONS_LOG, as it was when it succeeded, in the order in which they took place:

     a line "what TAB path TAB other TAB offset TAB length TAB name", then so many bytes of data.

   `other` is where a file was renamed to. `name` tells an operation apart from all others of a run:
   what it does, to which path, for the how many-th time, where random digits of paths are left out,
   because the order in which threads take their turns is not the same twice.

   The operation with the name $FILE_OPERATIONS_AT is not carried out, and logged as "fault" with the
   time as its offset, in milliseconds. It fails with the error number
   $FILE_OPERATIONS_ERROR, or writes half of what it should (-1), or the process is killed (-2). */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { SHORT = -1, KILL = -2, NAMES = 100000 };

/* Forgets what was counted: the next run begins. */
void begin_run(void);

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static char *names[NAMES];
static int counts[NAMES];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The absolute path of `path` seen from the folder `at`; false if it is not of interest. */
static int of_interest(int at, const char *path, char *found) {
  const char *root = getenv("FILE_OPERATIONS_ROOT");
  if (!root || !*root || !getenv("FILE_OPERATIONS_LOG")) return 0;
  found[0] = 0;
  if (!path || path[0] != '/') {
    char link[64];
    if (at == AT_FDCWD) {
      if (!getcwd(found, PATH_MAX)) return 0;
    } else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", at);
      ssize_t length = readlink(link, found, PATH_MAX - 1);
      if (length < 0) return 0;
      found[length] = 0;
    }
    if (path) strncat(strcat(found, "/"), path, PATH_MAX - strlen(found) - 2);
  } else {
    strncpy(found, path, PATH_MAX - 1);
  }
  size_t length = strlen(root);
  return !strncmp(found, root, length) && (!found[length] || found[length] == '/');
}

/* Names the operation: at most 15 hexadecimal digits in a row mean something. */
static void name_of(const char *what, const char *path, char *name) {
  const char *from = path + strlen(getenv("FILE_OPERATIONS_ROOT"));
  char *to = name + sprintf(name, "%s ", what);
  while (*from) {
    size_t digits = strspn(from, "0123456789abcdef");
    if (digits > 15) {
      *to++ = '*';
      from += digits;
    } else {
      for (digits += !digits; digits; --digits) *to++ = *from++;
    }
  }
  *to = 0;
  int i = 0;
  while (names[i] && strcmp(names[i], name)) ++i;
  if (!names[i]) names[i] = strdup(name);
  sprintf(to, " %d", ++counts[i]);
}

void begin_run(void) {
  pthread_mutex_lock(&turn);
  memset(counts, 0, sizeof counts);
  pthread_mutex_unlock(&turn);
}

/* What is to be done to this operation: 0 nothing, else as $FILE_OPERATIONS_ERROR. Holds `turn`. */
static int begin(const char *what, const char *path, char *name) {
  pthread_mutex_lock(&turn);
  name_of(what, path, name);
  const char *at = getenv("FILE_OPERATIONS_AT");
  if (!at || strcmp(at, name)) return 0;
  int log = REAL(open)(getenv("FILE_OPERATIONS_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  long milliseconds = 1000 * now.tv_sec + now.tv_nsec / 1000000;
  dprintf(log, "fault\t%s\t\t%ld\t0\t%s\n", path, milliseconds, name);
  REAL(close)(log);
  int fault = atoi(getenv("FILE_OPERATIONS_ERROR"));
  if (fault == KILL) kill(getpid(), SIGKILL);
  return fault;
}

static void end(const char *what, const char *path, const char *other, long offset, long length,
                const struct iovec *data, const char *name, int succeeded) {
  int error = errno;
  if (succeeded) {
    int log = REAL(open)(getenv("FILE_OPERATIONS_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    dprintf(log, "%s\t%s\t%s\t%ld\t%ld\t%s\n", what, path, other, offset, data ? length : 0, name);
    for (long left = data ? length : 0; left > 0; ++data) {
      long part = (long)data->iov_len < left ? (long)data->iov_len : left;
      if (REAL(write)(log, data->iov_base, part) != part) abort();
      left -= part;
    }
    REAL(close)(log);
  }
  pthread_mutex_unlock(&turn);
  errno = error;
}

/* An operation on paths or descriptors that has no data. */
#define SIMPLE(what, at, path, other, call)                     \
  char found[2 * PATH_MAX], name[3 * PATH_MAX];                 \
  if (!of_interest(at, path, found)) return call;               \
  int fault = begin(what, found, name);                         \
  int result = fault > 0 ? -1 : (call);                         \
  if (fault > 0) errno = fault;                                 \
  end(what, found, other, 0, 0, NULL, name, result >= 0);       \
  return result

static const char *kind(int flags, int existed) {
  if (flags & O_TRUNC && existed) return "truncate";
  if (flags & O_CREAT && !existed) return "create";
  return "open";
}

static int opened(int at, const char *path, int flags, mode_t mode) {
  int existed = !faccessat(at, path, F_OK, 0);
  SIMPLE(kind(flags, existed), at, path, "", REAL(openat)(at, path, flags, mode));
}

#define MODE(flags)                                             \
  va_list rest;                                                 \
  va_start(rest, flags);                                        \
  mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
  va_end(rest)

int open(const char *path, int flags, ...) { MODE(flags); return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags); return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags); return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags); return opened(at, path, flags, mode); }

static ssize_t written(int file, const struct iovec *data, int count, off_t offset, int anywhere) {
  char found[2 * PATH_MAX], name[3 * PATH_MAX];
  long length = 0;
  for (int i = 0; i < count; ++i) length += data[i].iov_len;
  if (!of_interest(file, NULL, found)) goto plain;
  int fault = begin("write", found, name);
  if (anywhere) offset = lseek(file, 0, fcntl(file, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
  ssize_t result = -1;
  if (fault > 0) {
    errno = fault;
  } else if (fault == SHORT && length > 1) {
    struct iovec half = {data[0].iov_base, (data[0].iov_len + 1) / 2};
    result = anywhere ? REAL(writev)(file, &half, 1) : REAL(pwritev)(file, &half, 1, offset);
  } else {
    result = anywhere ? REAL(writev)(file, data, count) : REAL(pwritev)(file, data, count, offset);
  }
  end("write", found, "", offset, result, data, name, result >= 0);
  return result;
plain:
  return anywhere ? REAL(writev)(file, data, count) : REAL(pwritev)(file, data, count, offset);
}

ssize_t write(int file, const void *from, size_t size) {
  struct iovec all = {(void *)from, size};
  return written(file, &all, 1, 0, 1);
}
ssize_t writev(int file, const struct iovec *data, int count) { return written(file, data, count, 0, 1); }
ssize_t pwrite(int file, const void *from, size_t size, off_t offset) {
  struct iovec all = {(void *)from, size};
  return written(file, &all, 1, offset, 0);
}
ssize_t pwrite64(int file, const void *from, size_t size, off_t offset) { return pwrite(file, from, size, offset); }
ssize_t pwritev(int file, const struct iovec *data, int count, off_t offset) { return written(file, data, count, offset, 0); }
ssize_t pwritev64(int file, const struct iovec *data, int count, off_t offset) { return written(file, data, count, offset, 0); }

static ssize_t got(int file, void *to, size_t size, off_t offset, int anywhere) {
  SIMPLE("read", file, NULL, "", anywhere ? REAL(read)(file, to, size) : REAL(pread)(file, to, size, offset));
}
ssize_t read(int file, void *to, size_t size) { return got(file, to, size, 0, 1); }
ssize_t pread(int file, void *to, size_t size, off_t offset) { return got(file, to, size, offset, 0); }
ssize_t pread64(int file, void *to, size_t size, off_t offset) { return got(file, to, size, offset, 0); }

#define LISTING(at, path, call)                                 \
  char found[2 * PATH_MAX], name[3 * PATH_MAX];                 \
  if (!of_interest(at, path, found)) return call;               \
  int fault = begin("list", found, name);                       \
  DIR *result = fault > 0 ? NULL : (call);                      \
  if (fault > 0) errno = fault;                                 \
  end("list", found, "", 0, 0, NULL, name, result != NULL);     \
  return result

DIR *fdopendir(int file) { LISTING(file, NULL, REAL(fdopendir)(file)); }
DIR *opendir(const char *path) { LISTING(AT_FDCWD, path, REAL(opendir)(path)); }

int fsync(int file) { SIMPLE("fsync", file, NULL, "", REAL(fsync)(file)); }
int fdatasync(int file) { SIMPLE("fsync", file, NULL, "", REAL(fdatasync)(file)); }
int flock(int file, int how) { SIMPLE("flock", file, NULL, "", REAL(flock)(file, how)); }
int ftruncate(int file, off_t size) { SIMPLE("ftruncate", file, NULL, "", REAL(ftruncate)(file, size)); }
int ftruncate64(int file, off_t size) { return ftruncate(file, size); }
int mkdirat(int at, const char *path, mode_t mode) { SIMPLE("mkdir", at, path, "", REAL(mkdirat)(at, path, mode)); }
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
int unlinkat(int at, const char *path, int flags) {
  SIMPLE(flags & AT_REMOVEDIR ? "rmdir" : "unlink", at, path, "", REAL(unlinkat)(at, path, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int renameat(int at, const char *path, int to_at, const char *to) {
  char other[2 * PATH_MAX];
  of_interest(to_at, to, other);
  SIMPLE("rename", at, path, other, REAL(renameat)(at, path, to_at, to));
}
int rename(const char *path, const char *to) { return renameat(AT_FDCWD, path, AT_FDCWD, to); }
int linkat(int at, const char *path, int to_at, const char *to, int flags) {
  char other[2 * PATH_MAX];
  of_interest(to_at, to, other);
  SIMPLE("link", at, path, other, REAL(linkat)(at, path, to_at, to, flags));
}
int link(const char *path, const char *to) { return linkat(AT_FDCWD, path, AT_FDCWD, to, 0); }
