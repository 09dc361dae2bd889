#include "threads.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#endif

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace rcfast::cpu {
namespace {

// Round to nearest, subnormals kept: the bits must not depend on what a caller made of its thread's modes
// (torch.set_flush_denormal).
class DefaultFloatingPoint {
#if defined(__SSE__)
  public:
    DefaultFloatingPoint() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
    ~DefaultFloatingPoint() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#endif
};

constexpr int64_t kPartsWorthAThread = 4, kPartsPerThread = 12;

// Waits some 50 microseconds for what another thread is about to do: sleeping and waking costs as much.
template <class Ready>
void spin(Ready ready) {
    for (int i = 0; i < 2000 && !ready(); ++i) {
#if defined(__SSE__)
        _mm_pause();
#endif
    }
}

// The first exception of a loop, kept until all threads have left it: none may leave a thread that is not the
// caller's, nor the caller while others are at work.
class Failure {
  public:
    template <class Work>
    void keep(Work work) noexcept {
        try {
            work();
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!first_) first_ = std::current_exception();
        }
    }
    void rethrow() const {
        if (first_) std::rethrow_exception(first_);
    }

  private:
    std::mutex mutex_;
    std::exception_ptr first_;
};

struct Job {
    const std::function<void(int64_t, int64_t)>* work;
    int64_t items;
    int parts, threads;
    int next = 0, helping = 0;
    std::atomic<int> done{0};
    Failure failure = {};
};

class Pool {
  public:
    void run(Job& job) {
        std::unique_lock<std::mutex> lock(mutex_);
        while (workers_ < job.threads - 1) {
            std::thread([this] { serve(); }).detach();
            ++workers_;
        }
        queue_.push_back(&job);
        ++submitted_;
        work_there_.notify_all();
        help(job, lock);
        lock.unlock();
        spin([&] { return job.done == job.parts; });
        lock.lock();  // also: no worker still looks at the job
        finished_.wait(lock, [&] { return job.done == job.parts; });
        queue_.erase(std::find(queue_.begin(), queue_.end(), &job));
    }

  private:
    // Takes parts of `job` until none is left; holds the lock at entry and exit.
    void help(Job& job, std::unique_lock<std::mutex>& lock) {
        ++job.helping;
        while (job.next < job.parts) {
            const int part = job.next++;
            lock.unlock();
            {
                DefaultFloatingPoint modes;
                job.failure.keep(
                    [&] { (*job.work)(job.items* part / job.parts, job.items * (part + 1) / job.parts); });
            }
            lock.lock();
            if (++job.done == job.parts) finished_.notify_all();
        }
    }

    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            Job* open = nullptr;
            work_there_.wait(lock, [&] {
                for (Job* job : queue_)
                    if (job->next < job->parts && job->helping < job->threads) open = job;
                return open != nullptr;
            });
            help(*open, lock);
            const unsigned seen = submitted_;
            lock.unlock();
            spin([&] { return submitted_ != seen; });
            lock.lock();
        }
    }

    std::mutex mutex_;
    std::condition_variable work_there_, finished_;
    std::vector<Job*> queue_;
    int workers_ = 0;
    std::atomic<unsigned> submitted_{0};
};

// Never destroyed, for detached workers outlive static destructors; a forked child, which has no workers,
// gets a pool of its own.
Pool& pool() {
    static std::mutex mutex;
    static Pool* current = nullptr;
    static pid_t owner = 0;
    const std::lock_guard<std::mutex> lock(mutex);
    if (owner != getpid()) {
        current = new Pool;
        owner = getpid();
    }
    return *current;
}

// The OpenMP runtime that this process has loaded, if any: torch's. After each of torch's loops its threads
// wait for milliseconds in a loop of their own, on the very cores that workers of another pool would need.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

#if defined(__linux__)
int note_openmp(dl_phdr_info* library, size_t, void* found) {
    const char* slash = std::strrchr(library->dlpi_name, '/');
    const char* name = slash ? slash + 1 : library->dlpi_name;
    for (const char* runtime : {"libgomp", "libomp", "libiomp"}) {
        if (!std::strstr(name, runtime)) continue;
        auto& names = *static_cast<std::vector<std::string>*>(found);
        // Other packages may bring one of their own.
        names.insert(std::strstr(library->dlpi_name, "torch") ? names.begin() : names.end(),
                     library->dlpi_name);
    }
    return 0;
}

GompParallel find_openmp() {
    std::vector<std::string> names;
    // It holds a lock for which dlopen in another thread may wait with its own: no dlopen inside.
    dl_iterate_phdr(note_openmp, &names);
    for (const std::string& name : names)
        if (void* handle = dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD))
            if (void* function = dlsym(handle, "GOMP_parallel"))
                return reinterpret_cast<GompParallel>(function);
    return nullptr;
}
#else
GompParallel find_openmp() { return nullptr; }
#endif

const pid_t loaded_by = getpid();

// None in a forked child, which has no threads of its parent's runtime.
GompParallel openmp() {
    static const GompParallel found = find_openmp();
    return loaded_by == getpid() ? found : nullptr;
}

struct Shared {
    const std::function<void(int64_t, int64_t)>* work;
    int64_t items;
    int parts;
    std::atomic<int> next{0};
    Failure failure = {};
};

void take_parts(void* data) {
    Shared& shared = *static_cast<Shared*>(data);
    DefaultFloatingPoint modes;
    for (int part; (part = shared.next++) < shared.parts;)
        shared.failure.keep([&] {
            (*shared.work)(shared.items* part / shared.parts, shared.items * (part + 1) / shared.parts);
        });
}

}  // namespace

void parallel_for(int64_t items, int64_t grain, int threads,
                  const std::function<void(int64_t, int64_t)>& work) {
    if (items <= 0) return;
    // A sleeping worker takes some 50 microseconds to wake: it is called only where there is work for it
    // then, and parts are small, so that the caller does what a late worker would have done.
    const int64_t parts = std::max<int64_t>(1, items / std::max<int64_t>(1, grain));
    const int64_t worth = std::max<int64_t>(1, parts / kPartsWorthAThread);
    const int team = static_cast<int>(std::min<int64_t>(std::max(1, threads), worth));
    if (team == 1) {
        DefaultFloatingPoint modes;
        work(0, items);
        return;
    }
    const int pieces = static_cast<int>(std::min<int64_t>(parts, team * kPartsPerThread));
    if (const GompParallel parallel = openmp()) {
        Shared shared{&work, items, pieces, {0}};
        // All of torch's threads: a smaller team would end the others.
        parallel(take_parts, &shared, static_cast<unsigned>(threads), 0);
        shared.failure.rethrow();
        return;
    }
    Job job{&work, items, pieces, team, 0, 0, {0}};
    pool().run(job);
    job.failure.rethrow();
}

}  // namespace rcfast::cpu
