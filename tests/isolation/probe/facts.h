/* What the isolation probe sees: one {"fact": name, "value": text} a line. */
#pragma once
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void quote(const char *text) {
  putchar('"');
  for (; *text; text++) {
    unsigned char c = *text;
    if (c == '"' || c == '\\') printf("\\%c", c);
    else if (c < 32 || c > 126) printf("\\u%04x", c);
    else putchar(c);
  }
  putchar('"');
}

static void fact(const char *name, const char *value) {
  printf("{\"fact\": ");
  quote(name);
  printf(", \"value\": ");
  quote(value);
  printf("}\n");
}

static void tell_status(void) {
  static const char *keys[] = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
                               "Seccomp_filters", "Groups", "Uid", "Gid", "Umask", "NSpid", "Threads"};
  char line[512], name[64];
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
      size_t length = strlen(keys[i]);
      if (strncmp(line, keys[i], length) || line[length] != ':') continue;
      snprintf(name, sizeof name, "status.%s", keys[i]);
      char *value = line + length + 1;
      value += strspn(value, " \t");
      fact(name, strcmp(keys[i], "NSpid") ? value : "");
    }
  }
  if (file) fclose(file);
}

static void tell_links(const char *folder, const char *prefix) {
  char path[300], name[300], value[300];
  DIR *dir = opendir(folder);
  for (struct dirent *each; dir && (each = readdir(dir));) {
    if (each->d_name[0] == '.' || atoi(each->d_name) == dirfd(dir)) continue;
    snprintf(path, sizeof path, "%s/%s", folder, each->d_name);
    ssize_t length = readlink(path, value, sizeof value - 1);
    value[length < 0 ? 0 : length] = 0;
    snprintf(name, sizeof name, "%s.%s", prefix, each->d_name);
    fact(name, value);
  }
  if (dir) closedir(dir);
}

static void tell_mounts(void) {
  FILE *file = setmntent("/proc/self/mounts", "r");
  char name[600], value[200];
  for (struct mntent *each; file && (each = getmntent(file));) {
    static const char *flags[] = {"ro", "nosuid", "nodev", "noexec"};
    snprintf(name, sizeof name, "mount.%s", each->mnt_dir);
    snprintf(value, sizeof value, "%s", each->mnt_type);
    for (int i = 0; i < 4; i++)
      if (hasmntopt(each, flags[i])) strcat(strcat(value, " "), flags[i]);
    fact(name, value);
  }
  if (file) endmntent(file);
}

static void tell_lines(const char *path, const char *prefix) {
  char line[512], name[64];
  FILE *file = fopen(path, "r");
  for (int i = 0; file && fgets(line, sizeof line, file); i++) {
    line[strcspn(line, "\n")] = 0;
    snprintf(name, sizeof name, "%s.%d", prefix, i);
    fact(name, line);
  }
  if (file) fclose(file);
}

static void tell_devices(void) {
  char path[300], name[300], value[100];
  struct stat st;
  DIR *dir = opendir("/dev");
  for (struct dirent *each; dir && (each = readdir(dir));) {
    if (each->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "/dev/%s", each->d_name);
    snprintf(name, sizeof name, "dev.%s", each->d_name);
    if (lstat(path, &st)) continue;
    char type = S_ISCHR(st.st_mode) ? 'c' : S_ISBLK(st.st_mode) ? 'b' : S_ISDIR(st.st_mode) ? 'd' : S_ISLNK(st.st_mode) ? 'l' : '-';
    snprintf(value, sizeof value, "%c %o %u:%u %u", type, st.st_mode & 07777, major(st.st_rdev), minor(st.st_rdev), st.st_uid);
    fact(name, value);
  }
  if (dir) closedir(dir);
}

static void tell_processes(void) {
  char value[32];
  int count = 0;
  DIR *dir = opendir("/proc");
  for (struct dirent *each; dir && (each = readdir(dir));) count += each->d_name[0] >= '0' && each->d_name[0] <= '9';
  if (dir) closedir(dir);
  snprintf(value, sizeof value, "%d", count);
  fact("processes", value);
}

static void tell_limits(void) {
  static const struct { const char *name; int number; } limits[] = {
      {"core", RLIMIT_CORE}, {"nofile", RLIMIT_NOFILE}, {"nproc", RLIMIT_NPROC}, {"memlock", RLIMIT_MEMLOCK}, {"stack", RLIMIT_STACK}};
  char name[32], value[64];
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
    struct rlimit limit;
    getrlimit(limits[i].number, &limit);
    snprintf(name, sizeof name, "limit.%s", limits[i].name);
    snprintf(value, sizeof value, "%lld %lld", (long long)limit.rlim_cur, (long long)limit.rlim_max);
    fact(name, value);
  }
}

static void tell_environment(char **environment) {
  char name[300];
  for (; *environment; environment++) {
    snprintf(name, sizeof name, "env.%.*s", (int)strcspn(*environment, "="), *environment);
    fact(name, strncmp(*environment, "HOSTNAME", 8) ? strchr(*environment, '=') + 1 : "");
  }
}

/* A path's content: how a masked file looks. */
static void tell_masked(const char *path) {
  char name[300], data[64];
  struct stat st;
  snprintf(name, sizeof name, "masked.%s", path);
  int fd = open(path, O_RDONLY | O_NONBLOCK);
  if (fd < 0) { fact(name, strerrorname_np(errno)); return; }
  fstat(fd, &st);
  if (S_ISDIR(st.st_mode)) {
    DIR *dir = fdopendir(fd);
    int count = -2;
    while (readdir(dir)) count++;
    fact(name, count > 0 ? "folder with entries" : "empty folder");
    closedir(dir);
    return;
  }
  ssize_t got = read(fd, data, sizeof data);
  fact(name, S_ISCHR(st.st_mode) ? "null device" : got < 0 ? strerrorname_np(errno) : got ? "readable" : "empty");
  close(fd);
}
