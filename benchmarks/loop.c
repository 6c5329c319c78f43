/* The simulator's recurrence in C, for benchmarks/engine_speed.py: CSR arrays, and padded without
 * branches (every task has two dependencies and the task before it on its stream; index 0 is a task
 * that ended at 0). */

void csr(long n, const int *stream, const int *offsets, const int *dependencies,
         const double *duration, double *free_s, double *end) {
    for (long i = 0; i < n; i++) {
        double t = free_s[stream[i]];
        for (int k = offsets[i]; k < offsets[i + 1]; k++) {
            double e = end[dependencies[k]];
            t = e > t ? e : t;
        }
        t += duration[i];
        end[i] = t;
        free_s[stream[i]] = t;
    }
}

void padded(long n, const int *before, const int *first, const int *second,
            const double *duration, double *end) {
    for (long i = 0; i < n; i++) {
        double a = end[before[i]], b = end[first[i]], c = end[second[i]];
        double t = a > b ? a : b;
        t = c > t ? c : t;
        end[i + 1] = t + duration[i];
    }
}
