namespace Ctkd.Fs

open System

/// A tensor as a strided view of a storage, in units of elements.
[<ReferenceEquality>]
type internal TorchView = { ItemSize: int; Offset: int64; Shape: int64 list; Strides: int64 list }

/// Reads the bytes of a view in row-major order. A view that exceeds its storage raises `Unpicklable`.
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

    /// Returns the number of elements.
    let count (view: TorchView) : int64 =
        checkedly "size" (fun () -> List.fold (fun n extent -> Checked.(*) n extent) 1L view.Shape)

    /// Returns the end of the view within its storage.
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

    /// Merges adjacent contiguous dimensions, and drops those of length 1.
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
                source.Span.Slice((int from + i * int stride) * item, item).CopyTo(target.Span.Slice(i * item))
        | (extent, stride) :: inner ->
            let part = target.Length / int extent

            for i in 0 .. int extent - 1 do
                copy source item inner (from + int64 i * stride) (target.Slice(i * part, part))

    /// <summary>
    /// Returns the bytes of a view. They are a slice of the storage if its elements are contiguous.
    /// </summary>
    /// <param name="reserve">Receives the number of bytes before a copy is made; may refuse.</param>
    /// <param name="storage">The bytes of the storage.</param>
    /// <param name="view">The view.</param>
    let bytes (reserve: int64 -> unit) (storage: ReadOnlyMemory<byte>) (view: TorchView) : ReadOnlyMemory<byte> =
        check storage view
        let item, count = int64 view.ItemSize, count view

        // Within the storage all numbers fit into 31 bits; an expanded view may have more elements than it.
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
