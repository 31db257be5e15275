namespace Ctkd.Fs

open System

/// A tensor as a window on a storage, all counted in elements.
[<ReferenceEquality>]
type internal TorchView = { ItemSize: int; Offset: int64; Shape: int64 list; Strides: int64 list }

/// The bytes that a window shows, in row-major order. A window that reaches beyond its storage raises
/// `Unpicklable`.
[<RequireQualifiedAccess>]
module internal TorchView =
    /// PyTorch's own limit.
    let maxRank = 64

    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    let private checkedly (what: string) (compute: unit -> int64) : int64 =
        try
            compute ()
        with :? OverflowException ->
            refuse $"the {what} of a tensor overflows"

    /// The number of elements.
    let count (view: TorchView) : int64 =
        checkedly "size" (fun () -> List.fold (fun n extent -> Checked.(*) n extent) 1L view.Shape)

    /// Behind the last element that the window shows.
    let private last (view: TorchView) : int64 =
        checkedly
            "extent"
            (fun () ->
                List.fold2
                    (fun sum extent stride -> Checked.(+) sum (Checked.(*) (extent - 1L) stride))
                    view.Offset
                    view.Shape
                    view.Strides
            )

    let private check (storage: ReadOnlyMemory<byte>) (view: TorchView) : unit =
        if view.Shape.Length <> view.Strides.Length then
            refuse $"a tensor has {view.Shape.Length} extents and {view.Strides.Length} strides"

        if List.exists (fun n -> n < 0L) (view.Offset :: view.Shape @ view.Strides) then
            refuse "a tensor has a negative offset, extent or stride"

        let there = int64 storage.Length / int64 view.ItemSize

        if count view > 0L && last view >= there then
            refuse $"a tensor reaches to element {last view} of a storage that has {there}"

    /// Extents and strides with those dimensions merged that follow each other without a gap; ones are
    /// dropped.
    let private merged (view: TorchView) : (int64 * int64) list =
        let merge (extent, stride) rest =
            match rest with
            | _ when extent = 1L -> rest
            | (inner, step) :: others when stride = inner * step -> (extent * inner, step) :: others
            | _ -> (extent, stride) :: rest

        List.foldBack merge (List.zip view.Shape view.Strides) []

    let rec private copy
        (source: ReadOnlyMemory<byte>)
        (item: int)
        (dimensions: (int64 * int64) list)
        (from: int64)
        (target: Memory<byte>)
        : unit =
        match dimensions with
        | [] -> source.Slice(int from * item, item).CopyTo target
        | [ extent, 1L ] -> source.Slice(int from * item, int extent * item).CopyTo target
        | [ extent, stride ] ->
            for i in 0 .. int extent - 1 do
                source.Span
                    .Slice((int from + i * int stride) * item, item)
                    .CopyTo(target.Span.Slice(i * item))
        | (extent, stride) :: inner ->
            let part = target.Length / int extent

            for i in 0 .. int extent - 1 do
                copy source item inner (from + int64 i * stride) (target.Slice(i * part, part))

    /// <summary>The bytes of a window. They are a view of the storage where its elements lie in
    /// order.</summary>
    /// <param name="reserve">Told the number of bytes that a copy takes, before it is made; may
    /// refuse.</param>
    /// <param name="storage">The bytes of the storage.</param>
    /// <param name="view">The window.</param>
    let bytes
        (reserve: int64 -> unit)
        (storage: ReadOnlyMemory<byte>)
        (view: TorchView)
        : ReadOnlyMemory<byte> =
        check storage view
        let item, count = int64 view.ItemSize, count view

        // Within the storage all numbers fit into 31 bits; an expanded window may show more than it holds.
        if count = 0L then
            ReadOnlyMemory.Empty
        else
            match merged view with
            | []
            | [ _, 1L ] -> storage.Slice(int (view.Offset * item), int (count * item))
            | dimensions ->
                if count > int64 Array.MaxLength / item then
                    refuse $"a tensor shows {count} elements, more than fit into memory"

                reserve (count * item)
                let target = Array.zeroCreate<byte>(int (count * item))
                copy storage view.ItemSize dimensions view.Offset (Memory target)
                ReadOnlyMemory target
