/* Records what a disk that drops everything unsynced would hold: preloaded into a process whose writes are watched.
 *
 * At every fsync and fdatasync of something below POWER_LOSS_ROOT it leaves in POWER_LOSS_LOG, numbered:
 *   N.tree   every name below the root at that moment: identity, type, path (what the system has in memory)
 *   N.file   a copy of the synced file's content, or
 *   N.names  the synced folder's names, with their identities and types,
 * and a line of the file "events": N, kind, identity. An identity is the inode and its time of birth, since inodes are
 * used again. Nothing is passed on to the disk.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static FILE *tree;

static void identity(int folder, const char *path, int flags, char *text, size_t size, char *type) {
    struct statx found;
    if (statx(folder, path, flags | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &found) != 0) {
        snprintf(text, size, "gone");
        *type = '?';
        return;
    }
    snprintf(text, size, "%llu-%lld.%09u", (unsigned long long)found.stx_ino, (long long)found.stx_btime.tv_sec,
             found.stx_btime.tv_nsec);
    *type = S_ISDIR(found.stx_mode) ? 'd' : S_ISREG(found.stx_mode) ? 'f' : 'o';
}

static int list_one(const char *path, const struct stat *seen, int kind, struct FTW *walk) {
    char text[64], type;
    identity(AT_FDCWD, path, 0, text, sizeof text, &type);
    fprintf(tree, "%s\t%c\t%s\n", text, type, path);
    return 0;
}

static void copy(const char *from, const char *to) {
    char buffer[1 << 16];
    ssize_t count;
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while ((count = read(in, buffer, sizeof buffer)) > 0)
        if (write(out, buffer, count) != count) abort();
    close(in);
    close(out);
}

static int record(int descriptor) {
    const char *root = getenv("POWER_LOSS_ROOT"), *log = getenv("POWER_LOSS_LOG");
    char link[64], path[PATH_MAX], place[PATH_MAX + 64], text[64], type;
    if (root == NULL || log == NULL) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (strncmp(path, root, strlen(root)) != 0) return 0;

    /* One event at a time, over threads and processes. */
    snprintf(place, sizeof place, "%s/events", log);
    int lock = open(place, O_RDWR | O_CREAT | O_APPEND, 0600);
    flock(lock, LOCK_EX);
    FILE *events = fdopen(lock, "r+");
    int number = 0, character;
    while ((character = fgetc(events)) != EOF) number += character == '\n';

    snprintf(place, sizeof place, "%s/%d.tree", log, number);
    tree = fopen(place, "w");
    nftw(root, list_one, 16, FTW_PHYS);
    fclose(tree);
    identity(descriptor, "", AT_EMPTY_PATH, text, sizeof text, &type);
    if (type == 'd') {
        snprintf(place, sizeof place, "%s/%d.names", log, number);
        FILE *names = fopen(place, "w");
        DIR *folder = opendir(path);
        for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
            char inner[64], kind;
            if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
            identity(dirfd(folder), entry->d_name, 0, inner, sizeof inner, &kind);
            fprintf(names, "%s\t%c\t%s\n", inner, kind, entry->d_name);
        }
        if (folder != NULL) closedir(folder);
        fclose(names);
    } else {
        snprintf(place, sizeof place, "%s/%d.file", log, number);
        copy(link, place);
    }
    fseek(events, 0, SEEK_END);
    fprintf(events, "%d\t%c\t%s\n", number, type, text);
    fclose(events);
    return 0;
}

int fsync(int descriptor) { return record(descriptor); }
int fdatasync(int descriptor) { return record(descriptor); }
