/* The yardstick in C: what a program on CFITSIO does to merge files, call by call.
 *
 *     cfitsio_merge [-i] [-s] LISTING PRODUCT
 *
 * LISTING is the file of that name in the folder of a job (jobs.py); its files are beside
 * it. The keywords of the sources' primary headers and those of the listing go into the primary
 * header, the extensions are copied whole, every HDU is told its origin and sealed.
 *
 *     -i   in place: the target is extended and renamed; otherwise a new file is written
 *     -s   sync the product before it gets its name
 */
#include <fitsio.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE = 4096, ROOM = 8 };

struct keyword {
    char kind;
    char *name, *value, *comment;
};

struct job {
    char folder[LINE];
    char *target, *archive;
    char **sources;
    struct keyword *keywords;
    int source_count, keyword_count;
};

static int status; /* CFITSIO's: after an error all its calls do nothing */

static void die(const char *what) {
    fprintf(stderr, "cfitsio_merge: %s\n", what);
    if (status) fits_report_error(stderr, status);
    exit(1);
}

static void *grown(void *items, int count, size_t size) {
    if (count & (count - 1)) return items; /* grows at powers of two */
    items = realloc(items, (count ? 2 * count : 1) * size);
    if (!items) die("no memory");
    return items;
}

static void take_line(struct job *job, char *line) {
    char *field[4] = {line, NULL, NULL, NULL};
    for (int i = 1; i < 4 && field[i - 1]; i++) {
        field[i] = strchr(field[i - 1], '\t');
        if (field[i]) *field[i]++ = 0;
    }
    if (!field[1]) return;
    if (!strcmp(line, "archive")) job->archive = field[1];
    else if (!strcmp(line, "target")) job->target = field[1];
    else if (!strcmp(line, "source")) {
        job->sources = grown(job->sources, job->source_count, sizeof *job->sources);
        job->sources[job->source_count++] = field[1];
    } else if (field[3]) {
        job->keywords = grown(job->keywords, job->keyword_count, sizeof *job->keywords);
        job->keywords[job->keyword_count++] =
            (struct keyword){line[0], field[1], field[2], field[3]};
    }
}

static void read_listing(struct job *job, const char *path) {
    char line[LINE];
    FILE *file = fopen(path, "r");
    if (!file) die(path);
    snprintf(job->folder, sizeof job->folder, "%s", path);
    char *slash = strrchr(job->folder, '/');
    if (slash) *slash = 0;
    else strcpy(job->folder, ".");
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *kept = strdup(line);
        if (!kept) die("no memory");
        take_line(job, kept);
    }
    fclose(file);
}

static fitsfile *open_file(const struct job *job, const char *name, int mode) {
    char path[2 * LINE];
    fitsfile *file = NULL;
    snprintf(path, sizeof path, "%s/%s", job->folder, name);
    fits_open_diskfile(&file, path, mode, &status);
    if (status) die(path);
    return file;
}

static void seal(fitsfile *product, const char *origin, const struct job *job) {
    fits_update_key_str(product, "ORIGFILE", origin, "Original file name", &status);
    fits_update_key_str(product, "ARCFILE", job->archive, "Archive file name", &status);
    fits_write_chksum(product, &status);
}

static void merge_cards(fitsfile *source, fitsfile *product) {
    int count = 0;
    char card[FLEN_CARD];
    fits_get_hdrspace(source, &count, NULL, &status);
    for (int i = 1; i <= count && !status; i++) {
        fits_read_record(source, i, card, &status);
        if (!strncmp(card, "HIERARCH ESO ", 13)) fits_write_record(product, card, &status);
    }
}

static void merge_keyword(const struct keyword *one, fitsfile *product) {
    switch (one->kind) {
    case 'l': fits_update_key_log(product, one->name, *one->value == 'T', one->comment, &status); break;
    case 'i': fits_update_key_lng(product, one->name, atoll(one->value), one->comment, &status); break;
    case 'r': fits_update_key_dbl(product, one->name, atof(one->value), -15, one->comment, &status); break;
    default: /* the quicker call would cut a longer text off */
        if (strlen(one->value) > 60)
            fits_update_key_longstr(product, one->name, one->value, one->comment, &status);
        else fits_update_key_str(product, one->name, one->value, one->comment, &status);
    }
}

static void make_primary(const struct job *job, fitsfile *product, const char *origin) {
    for (int i = 0; i < job->source_count; i++) {
        fitsfile *source = open_file(job, job->sources[i], READONLY);
        merge_cards(source, product);
        fits_close_file(source, &status);
    }
    for (int i = 0; i < job->keyword_count; i++) merge_keyword(&job->keywords[i], product);
    seal(product, origin, job);
    if (status) die("primary header");
}

static void copy_extensions(const struct job *job, const char *name, fitsfile *product,
                            const char *origin) {
    int count = 0, type;
    fitsfile *source = open_file(job, name, READONLY);
    fits_get_num_hdus(source, &count, &status);
    for (int i = 2; i <= count && !status; i++) {
        fits_movabs_hdu(source, i, &type, &status);
        fits_copy_hdu(source, product, ROOM, &status);
        seal(product, origin, job);
    }
    fits_close_file(source, &status);
    if (status) die(name);
}

/* Begin the product in a new file. */
static fitsfile *begin(const struct job *job, const char *path) {
    fitsfile *product = NULL;
    unlink(path);
    fits_create_diskfile(&product, path, &status);
    if (job->target) {
        fitsfile *target = open_file(job, job->target, READONLY);
        fits_copy_header(target, product, &status);
        fits_copy_data(target, product, &status);
        fits_close_file(target, &status);
    } else {
        fits_create_img(product, BYTE_IMG, 0, NULL, &status);
        fits_write_date(product, &status);
    }
    if (status) die(path);
    return product;
}

int main(int argc, char **argv) {
    int in_place = 0, sync = 0, option, count = 0, type;
    struct job job = {0};
    char path[2 * LINE];
    while ((option = getopt(argc, argv, "is")) != -1) {
        if (option == 'i') in_place = 1;
        else if (option == 's') sync = 1;
        else return 2;
    }
    if (argc - optind != 2) die("usage: cfitsio_merge [-i] [-s] LISTING PRODUCT");
    const char *product_path = argv[optind + 1];
    const char *slash = strrchr(product_path, '/');
    const char *name = slash ? slash + 1 : product_path;
    read_listing(&job, argv[optind]);

    fitsfile *product;
    if (in_place && job.target) {
        snprintf(path, sizeof path, "%s/%s", job.folder, job.target);
        product = open_file(&job, job.target, READWRITE);
    } else {
        snprintf(path, sizeof path, "%s.part", product_path);
        product = begin(&job, path);
    }
    make_primary(&job, product, name);
    if (in_place && job.target) {
        fits_get_num_hdus(product, &count, &status);
        for (int i = 2; i <= count && !status; i++) {
            fits_movabs_hdu(product, i, &type, &status);
            seal(product, name, &job);
        }
    } else if (job.target) {
        copy_extensions(&job, job.target, product, job.target);
    }
    for (int i = 0; i < job.source_count; i++)
        copy_extensions(&job, job.sources[i], product, job.sources[i]);
    fits_close_file(product, &status);
    if (status) die(path);
    if (sync) {
        int fd = open(path, O_RDONLY);
        if (fd < 0 || fsync(fd)) die("sync");
        close(fd);
    }
    if (rename(path, product_path)) die("rename");
    return 0;
}
