module Ctkd.Fs.Tests.PhotoLoaderTests

open System
open System.Diagnostics
open System.IO
open System.Threading
open Expecto
open Ctkd.Images
open Ctkd.Fs
open Ctkd.Fs.Tests.PhotoFixtures

let private size = 12

/// Twelve small JPEG files.
let private files: byte[][] = Array.init 12 (fun i -> jpeg i (20 + i) (31 - i))

let private cut: CutChooser = Crop.training (Rng.ofSeed 4) 0.08 size

let private start (source: IPhotoSource) (threads: int) (keep: int64) : PhotoLoader =
    new PhotoLoader(source, threads, size, size, 2, keep)

/// The bytes of batches over some epochs, and which images they are of.
let private epochs (loader: PhotoLoader) (count: int) (epochs: int) : (byte[] * int[]) list = [
    for epoch in 0 .. epochs - 1 do
        let order = Rng.ofSeed 8 |> Rng.at epoch |> Rng.permutation count |> Array.map int

        for batch, images in Array.chunkBySize 5 order |> Array.indexed do
            let positions = images |> Array.mapi (fun i _ -> 1000 * epoch + 5 * batch + i)
            use request = loader.Request(images, positions, cut)
            request.Wait()
            request.Bytes.ToArray(), request.Images
]

/// What a row must be.
let private expected (file: byte[]) (position: int) : byte[] =
    let rgb, rows, columns = decode file
    let target = Array.zeroCreate<byte>(3 * size * size)
    let chosen = cut.Invoke(position, rows, columns)
    Resampler().Resize(ReadOnlySpan(Array.append rgb [| 0uy |]), 3, columns, &chosen, Span target, size, size)
    target

/// A source that runs something before it reads.
let private watched (before: int -> unit) (inner: IPhotoSource) : IPhotoSource = {
    new IPhotoSource with
        member _.Count = inner.Count
        member _.Name image = inner.Name image

        member _.Read(image, buffer) =
            before image
            inner.Read(image, &buffer)
}

let private readAll (loader: PhotoLoader) (images: int[]) : int[] =
    use request = loader.Request(images, images, cut)
    request.Wait()
    request.Images

let tests =
    testList "PhotoLoader" [
        test "batches have the same bytes for 1, 2 and 7 threads, and with images kept or not" {
            let one = epochs (start (MemorySource files) 1 0L) files.Length 3

            for threads, keep in [ 2, 0L; 7, 0L; 1, 20_000L; 2, Int64.MaxValue ] do
                use loader = start (MemorySource files) threads keep
                Must.equal one (epochs loader files.Length 3)
        }

        test "a row is the crop of its image, at its place in the batch" {
            use loader = start (MemorySource files) 2 0L
            use request = loader.Request([| 7; 0; 7 |], [| 40; 41; 42 |], cut)
            request.Wait()
            let rows = Array.chunkBySize (3 * size * size) (request.Bytes.ToArray())
            Must.equal [| expected files[7] 40; expected files[0] 41; expected files[7] 42 |] rows
            Must.equal [| 7; 0; 7 |] request.Images
        }

        test "a slow file reorders nothing, and later batches are decoded meanwhile" {
            let source = watched (fun image -> if image % 5 = 0 then Thread.Sleep 30) (MemorySource files)
            use loader = start source 3 0L
            Must.equal (epochs (start (MemorySource files) 1 0L) 12 1) (epochs loader 12 1)
        }

        test "an image that cannot be decoded is replaced by the next, and named once with the reason" {
            let bad = Array.copy files
            bad[3] <- files[3][..100]
            bad[4] <- [||]
            bad[11] <- "<html>"B
            use loader = start (MemorySource bad) 2 0L

            for _ in 1..2 do
                Must.equal [| 2; 5; 5; 5; 0 |] (readAll loader [| 2; 3; 4; 5; 11 |])

            Must.equal
                [
                    struct ("image 11", "it is HTML or XML, and no image")
                    struct ("image 3", "it is truncated")
                    struct ("image 4", "it is empty")
                ]
                (loader.Unreadable |> Seq.sort |> List.ofSeq)

            Must.equal 6L loader.Replaced
        }

        test "where no image may take another's place, a row that cannot be read is -1 with bytes of 0" {
            let bad = Array.copy files
            bad[3] <- files[3][..100]
            bad[11] <- [||]
            use loader = start (MemorySource bad) 2 0L

            for _ in 1..2 do
                // The memory is used again: what was there must not show.
                readAll loader [| 0; 1; 2 |] |> ignore
                use request = loader.Request([| 3; 5; 11 |], [| 3; 5; 11 |], cut, false)
                request.Wait()
                Must.equal [| -1; 5; -1 |] request.Images
                let nothing = Array.zeroCreate<byte>(3 * size * size)

                Must.equal
                    [| nothing; expected files[5] 5; nothing |]
                    (Array.chunkBySize (3 * size * size) (request.Bytes.ToArray()))

            Must.equal 2 loader.Unreadable.Count
            Must.equal 0L loader.Replaced
        }

        test "where no image may take another's place, unreadable ones fail no request, and no other file is read" {
            let seen = Collections.Concurrent.ConcurrentQueue<int>()
            let source = watched seen.Enqueue (MemorySource(Array.create 9 [| 1uy |]))
            use loader = start source 2 0L

            for _ in 1..2 do
                use request = loader.Request([| 4; 7 |], [| 0; 1 |], cut, false)
                request.Wait()
                Must.equal [| -1; -1 |] request.Images

            Must.equal [ 4; 7 ] (seen |> Seq.sort |> List.ofSeq)
        }

        test "an image that is known to be unreadable is not read again" {
            let bad = Array.copy files
            bad[3] <- [||]
            let seen = Collections.Concurrent.ConcurrentQueue<int>()
            use loader = start (watched seen.Enqueue (MemorySource bad)) 2 0L

            for _ in 1..5 do
                Must.equal [| 4 |] (readAll loader [| 3 |])

            Must.equal 1 (seen |> Seq.filter ((=) 3) |> Seq.length)
            Must.equal 5L loader.Replaced
        }

        test "a replacement gets the cut of the position that it fills" {
            let bad = Array.copy files
            bad[0] <- [||]
            use loader = start (MemorySource bad) 1 0L
            use request = loader.Request([| 0 |], [| 77 |], cut)
            request.Wait()
            Must.equal (expected files[1] 77) (request.Bytes.ToArray())
        }

        test "where no image can be read the request fails instead of running for ever" {
            use loader = start (MemorySource(Array.create 9 [| 1uy |])) 2 0L
            let error = Must.throw<PhotoException>(fun () -> readAll loader [| 0; 1 |] |> ignore)
            Must.contain "9 images in a row cannot be read" error.Message
        }

        test "a failure that is no photograph's reaches the caller, and the loader goes on" {
            let source =
                watched (fun image -> if image = 6 then invalidOp "the disk fell down") (MemorySource files)

            use loader = start source 2 0L

            Must.contain
                "fell down"
                (Must.throw<InvalidOperationException>(fun () -> readAll loader [| 5; 6; 7 |] |> ignore)).Message

            Must.equal [| 1; 2 |] (readAll loader [| 1; 2 |])

            let outside = CutChooser(fun _ rows columns -> Cut(0, 0, rows + 1, columns, size, size, 0, 0, false))
            use request = loader.Request([| 1 |], [| 1 |], outside)
            Must.throwAny<ArgumentException>(fun () -> request.Wait()) |> ignore
        }

        test "a file that vanishes during training is named, and training goes on" {
            Folders.inFolder (fun folder ->
                files |> Array.iteri (fun i file -> File.WriteAllBytes(Path.Combine(folder, $"{i}.jpg"), file))
                let names = Array.init 12 (fun i -> $"{i}.jpg")
                use loader = start (FolderSource(folder, names)) 2 0L
                Must.equal [| 4; 5 |] (readAll loader [| 4; 5 |])
                File.Delete(Path.Combine(folder, "4.jpg"))
                Directory.CreateDirectory(Path.Combine(folder, "6.jpg.d")) |> ignore
                Must.equal [| 5; 5 |] (readAll loader [| 4; 5 |])
                Must.equal [ struct ("4.jpg", "it is not there any more") ] (List.ofSeq loader.Unreadable)
            )
        }

        test "a request waits for memory while all of it is in use" {
            use loader = start (MemorySource files) 1 0L
            let first, second = loader.Request([| 0 |], [| 0 |], cut), loader.Request([| 1 |], [| 1 |], cut)
            let third: PhotoRequest option ref = ref None
            let asking = Thread(fun () -> third.Value <- Some(loader.Request([| 2 |], [| 2 |], cut)))
            asking.Start()
            first.Wait()
            Must.notHold (asking.Join 50)
            first.Dispose()
            Must.hold (asking.Join 10_000)
            third.Value.Value.Wait()
            Must.equal (expected files[2] 2) (third.Value.Value.Bytes.ToArray())
            third.Value.Value.Dispose()
            second.Dispose()
        }

        test "a request that is given back undecoded frees its memory" {
            use loader = start (watched (fun _ -> Thread.Sleep 1) (MemorySource files)) 2 0L

            for _ in 0..20 do
                loader.Request(Array.init 12 id, Array.init 12 id, cut).Dispose()

            Must.equal [| 3 |] (readAll loader [| 3 |])
        }

        test "ending while batches are in flight neither hangs nor crashes, and finished batches stay readable" {
            for threads in 1..3 do
                let loader = start (watched (fun _ -> Thread.Sleep 2) (MemorySource files)) threads 0L
                use first = loader.Request([| 0 |], [| 0 |], cut)
                first.Wait()
                use second = loader.Request(Array.init 12 id, Array.init 12 id, cut)
                let waiting = Tasks.Task.Run(fun () -> second.Wait())
                loader.Dispose()
                loader.Dispose()
                Must.equal (expected files[0] 0) (first.Bytes.ToArray())

                let failure = Must.throw<AggregateException>(fun () -> waiting.Wait())
                Must.hold (failure.InnerException :? ObjectDisposedException)
                Must.throw<ObjectDisposedException>(fun () -> loader.Request([| 0 |], [| 0 |], cut) |> ignore) |> ignore
        }

        test "pixels cannot be read before they are there, nor after they are given back" {
            use loader = start (watched (fun _ -> Thread.Sleep 100) (MemorySource files)) 1 0L
            let request = loader.Request([| 0 |], [| 0 |], cut)
            Must.throw<InvalidOperationException>(fun () -> request.Bytes.Length |> ignore) |> ignore
            request.Dispose()
            Must.throw<ObjectDisposedException>(fun () -> request.Bytes.Length |> ignore) |> ignore
        }

        test "the time of waiting is counted" {
            use loader = start (watched (fun _ -> Thread.Sleep 40) (MemorySource files)) 1 0L
            Must.equal TimeSpan.Zero loader.Waited
            readAll loader [| 0 |] |> ignore
            Must.lie 20.0 30_000.0 loader.Waited.TotalMilliseconds
        }

        test "numbers of images and of threads that make no sense are refused" {
            use loader = start (MemorySource files) 1 0L
            Must.throwAny<ArgumentException>(fun () -> loader.Request([| 12 |], [| 0 |], cut) |> ignore) |> ignore
            Must.throwAny<ArgumentException>(fun () -> loader.Request([| -1 |], [| 0 |], cut) |> ignore) |> ignore
            Must.throwAny<ArgumentException>(fun () -> loader.Request([| 1; 2 |], [| 0 |], cut) |> ignore) |> ignore
            Must.throwAny<ArgumentException>(fun () -> (start (MemorySource files) 0 0L).Dispose()) |> ignore
            Must.throwAny<ArgumentException>(fun () -> (start (MemorySource [||]) 1 0L).Dispose()) |> ignore
        }

        test "kept images are decoded once" {
            let reads = ref 0
            let source = watched (fun _ -> Interlocked.Increment reads |> ignore) (MemorySource files)
            use loader = start source 1 Int64.MaxValue
            epochs loader 12 4 |> ignore
            Must.equal 12 reads.Value
        }

        test "of an epoch that leaves its last batch out, the photographs of that batch are not decoded" {
            Tensor.scoped (fun () ->
                let perChannel value = Augment.perChannel DType.Float32 Device.Cpu [ value; value; value ]

                let decoded (used: int) : int =
                    let reads = ref 0
                    let source = watched (fun _ -> Interlocked.Increment reads |> ignore) (MemorySource files)
                    use loader = new PhotoLoader(source, 2, size, size, PhotoStream.slabs, 0L)

                    let epoch =
                        PhotoStream.epoch (Rng.ofSeed 2) 1 {
                            Loader = loader
                            Labels = Array.zeroCreate files.Length
                            Used = used
                            Height = size
                            Width = size
                            LeastArea = 0.08
                            Mean = perChannel 0.5
                            Std = perChannel 0.25
                        }

                    for start in [ 0; 5 ] do
                        epoch.Batch start (start + 5) |> ignore

                    // What is decoded ahead has the time that it needs.
                    SpinWait.SpinUntil((fun () -> reads.Value = files.Length), 500) |> ignore
                    epoch.Free()
                    reads.Value

                Must.equal [ 10; 12 ] [ decoded 10; decoded 12 ]
            )
        }

        test "memory stays flat over many epochs" {
            use loader = start (MemorySource files) 2 0L

            let resident () =
                GC.Collect()
                GC.WaitForPendingFinalizers()
                use self = Process.GetCurrentProcess()
                self.WorkingSet64

            epochs loader 12 20 |> ignore
            let before, allocated = resident (), GC.GetTotalMemory true
            epochs loader 12 150 |> ignore
            // A leak of one image a batch would be some MiB in managed memory, of one decoder much more.
            Must.lie Int64.MinValue 1_000_000L (GC.GetTotalMemory true - allocated)
            Must.lie Int64.MinValue 50_000_000L (resident () - before)
        }
    ]
